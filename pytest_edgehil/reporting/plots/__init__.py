"""Pictures of what a gate decided on: one module per kind, each drawn from the raw sample and the gate alone.

A picture is evidence for people, so nothing in it comes from a report: the gate judges the sample again, and what is
drawn is what it saw. Same sample and gate, same bytes. matplotlib is an extra (``pytest-edgehil[plots]``) and is
imported only when something is drawn; without it there are no pictures, and nothing else changes.
"""

"""The mathematics beneath the gates: pure functions on arrays, each with shapes, units, source and a doctest.

Nothing here knows what a board or a verdict is. numpy and scipy stand at the top of these modules, so they are
imported only by a gate that evaluates.
"""

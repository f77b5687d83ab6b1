"""Deciding which worker runs which test next: pure, without xdist, pytest, files or clocks.

`task` says what a test is to a scheduler, `history` and `estimates` how long it will take, `lanes` keeps what waits,
`needs` who is needed most, and `affinity` chooses. `pytest_edgehil.plugin.scheduler` speaks with xdist.
"""

"""Deltas: what must be sent when a board already holds something similar.

`chunks` finds what is the same, `tensors` finds what is nearly the same, `coding` writes near-equality in few bytes,
`create` chooses, and `document` is the file that comes of it. The board's half is ``onboard/patch.py``.
"""

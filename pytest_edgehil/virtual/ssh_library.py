"""asyncssh, imported without its search for liboqs and nettle.

It looks for the two with ``ctypes.util.find_library``, which starts ldconfig, gcc and ld for each name that it tries:
a sixth of what the start of a virtual board costs. What they add (sntrup761, UMAC) no client insists on.
"""

from __future__ import annotations

import ctypes.util

_search = ctypes.util.find_library
ctypes.util.find_library = lambda name: None  # noqa: ARG005 - whatever it looks for
try:
    import asyncssh
finally:
    ctypes.util.find_library = _search

__all__ = ["asyncssh"]

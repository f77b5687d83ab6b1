"""How a run that holds boards ends when it is told to, or when what started it is gone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

_PR_SET_PDEATHSIG = 1


def terminate_like_interrupt() -> Callable[[], None]:
    """Let SIGTERM, which a cancelled CI job gets, end the run as Ctrl-C does: boards given back, results written.

    Leaves alone a handler that somebody else has set.

    Returns:
        Puts back what was there before: pytest may have been called by a program that goes on. Safe to call twice.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None
    signal.signal(signal.SIGTERM, _interrupt)
    return _put_back


def _put_back() -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt("terminated")


def die_with_controller() -> None:
    """In a worker: end with the controller, also while native code holds the interpreter (prctl(2), Linux only).

    xdist starts workers from its main thread, so the thread whose end the kernel waits for is the right one.
    """
    import ctypes

    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

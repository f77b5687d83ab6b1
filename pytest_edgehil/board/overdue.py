"""Ending what takes too long, with one thread for all of it.

A `threading.Timer` starts a thread for each use, and whoever starts a thread waits until it runs: on a busy machine
that takes longer than the command on the board that it watches over.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from pytest_edgehil.board.deadline import Deadline


class Overdue:
    """Watches over deadlines of operations that have none of their own.

    Args:
        name: of the thread, which is started with the first operation.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._watched: dict[object, tuple[Deadline, Callable[[], None]]] = {}
        self._looks_at: Deadline | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextlib.contextmanager
    def watching(self, deadline: Deadline, end: Callable[[], None]) -> Iterator[None]:
        """Within it, `end` is called, once and from another thread, when `deadline` has passed."""
        key = object()
        with self._changed:
            self._watched[key] = deadline, end
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name=self._name, daemon=True)
                self._thread.start()
            elif self._looks_at is None or deadline.at < self._looks_at.at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._watched.pop(key, None)

    def close(self) -> None:
        """End the thread. May be called again, also from what it calls."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        while (ends := self._due()) is not None:
            for end in ends:
                end()

    def _due(self) -> list[Callable[[], None]] | None:
        """What has to be ended now, perhaps nothing; None when all is over."""
        with self._changed:
            while not self._closed:
                passed = [key for key, (deadline, _) in self._watched.items() if deadline.passed()]
                if passed:
                    return [self._watched.pop(key)[1] for key in passed]
                # An operation that ends in time wakes nobody: the moment stays, and nothing is found then.
                deadlines = [deadline for deadline, _ in self._watched.values()]
                self._looks_at = min(deadlines, key=lambda one: one.at, default=None)
                self._changed.wait(None if self._looks_at is None else self._looks_at.left_s())
        return None

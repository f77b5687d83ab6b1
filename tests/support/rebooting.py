"""Links to a `BenchBoard` that reboots when it was asked to: whoever connects after that finds it booted."""

from __future__ import annotations

from collections.abc import Callable

from support.boards import BenchBoard
from support.local_transport import LocalTransport

from pytest_edgehil.errors import ConnectFailed


class Rebooting:
    """`connect` for a `BoardSession`.

    Args:
        bench: the board.
        comes_up: does a firmware on trial come up? If not, nobody answers until the power has been cycled.
        falls_back: does the bootloader go back by itself instead of hanging?
    """

    def __init__(self, bench: BenchBoard, *, comes_up: bool = True, falls_back: bool = False) -> None:
        self.bench = bench
        self.comes_up = comes_up
        self.falls_back = falls_back
        self.hangs = False
        self.cycles = 0
        self.opened: list[LocalTransport] = []
        self.on_reboot: Callable[[], None] | None = None

    def connect(self, timeout_s: float) -> LocalTransport:
        asked = self.bench.root / "reboot-asked"
        if asked.exists():
            for link in self.opened:
                link.cut("the board rebooted")
            trial = asked.read_text() == "0 tryboot"
            if self.on_reboot is not None:
                self.on_reboot()
            if trial and not self.comes_up and not self.falls_back:
                self.hangs = True
                asked.unlink()
            else:
                self.bench.boot(comes_up=self.comes_up)
        if self.hangs:
            raise ConnectFailed(f"{self.bench.board.id}: connection refused")
        self.opened.append(self.bench.connect(timeout_s))
        return self.opened[-1]

    def close(self) -> None:
        for link in self.opened:
            link.close()

    # --- as a power switch ---------------------------------------------------------------------------

    def on(self) -> None:
        return

    def off(self) -> None:
        for link in self.opened:
            link.cut("no power")

    def cycle(self) -> None:
        self.cycles += 1
        self.off()
        self.hangs = False
        self.bench.boot(comes_up=False)

    def is_on(self) -> bool | None:
        return True

"""A log of power cuts, a line for each, which a later run goes on with; and what it comes to."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from support.emulated_cuts import PATHS, Cut

from pytest_edgehil.gates.stats.binomial import clopper_pearson

ALPHA = 0.05
_LOST = "lost"
_WRONG = re.compile(r"WRONG \((.*?)\): (.*)")
_DIRECTORY = re.compile(r"\S*/edgehil-cuts-[^/\s]+/")


class CutLog:
    """Cuts of several boards by whose they are: ours, or a peer's.

    Args:
        path: where they are kept; what is there already counts. None: nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._cuts: list[tuple[str, Cut]] = []
        self.recordings = 0
        for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ():
            if line.startswith("#"):
                self.recordings += 1
                continue
            _, whose, name, how, came = line.split(" | ", 4)
            if wrong := _WRONG.fullmatch(came):
                outcome = "" if wrong[1] == _LOST else wrong[1]
                self._cuts.append((whose, Cut(path=name, how=how, outcome=outcome, faults=(wrong[2],))))
            else:
                self._cuts.append((whose, Cut(path=name, how=how, outcome=came)))

    def of(self, whose: str) -> list[Cut]:
        """The cuts so far."""
        with self._lock:
            return [cut for one, cut in self._cuts if one == whose]

    def begin(self, recorded: str) -> None:
        """What follows was cut in another recording, which a comment describes."""
        self.recordings += 1
        self._write(f"# {recorded}")

    def add(self, whose: str, cut: Cut) -> None:
        """One more; it is in the file when this returns."""
        with self._lock:
            self._cuts.append((whose, cut))
            came = cut.outcome
            if cut.faults:
                said = _DIRECTORY.sub("", " ".join("; ".join(cut.faults).split()))
                came = f"WRONG ({cut.outcome or _LOST}): {said}"
            self._write(f"{len(self._cuts):4} | {whose} | {cut.path} | {cut.how} | {came}")

    def _write(self, line: str) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def summary(cuts: Iterable[Cut]) -> list[str]:
    """How the cuts of each path ended, and how often at most they end badly."""
    cuts = list(cuts)
    lines = []
    for name in PATHS:
        ended = Counter("wrong" if one.faults else one.outcome[:3] for one in cuts if one.path == name)
        trials = sum("trial" in one.outcome for one in cuts if one.path == name)
        lines.append(
            f"  {name:15} {ended.total():4} cuts: {ended['old']} old combo ({trials} of them left a trial), "
            f"{ended['new']} new combo, {ended['wrong']} wrong"
        )
    killed = sum("killed" in one.how for one in cuts)
    again, repaired = (sum(word in one.outcome for one in cuts) for word in ("next run", "repaired"))
    lines.append(f"  {killed} by killing QEMU; after {again} the deployment was run again, and ended well")
    lines.append(f"  after {repaired} the kernel refused the file system of /data, and the board repaired it")
    if cuts:
        _, most = clopper_pearson(len(cuts), sum(bool(one.faults) for one in cuts), ALPHA)
        lines.append(f"  wrong: at most {most:.1%} (Clopper-Pearson, one-sided, {1 - ALPHA:.0%})")
    return lines

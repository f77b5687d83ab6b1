"""What the keys of a release repository have signed for: a file on their side, which the repository is held to.

It remembers which nonces of evidence were used up, and at which version of the repository, so that an old copy of the
repository that somebody puts back is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.evidence import canonical
from pytest_edgehil.evidence.files import write_atomically
from pytest_edgehil.evidence.verify import VerifiedEvidence
from pytest_edgehil.release.repository import Repository


class Accepted:
    """What was signed for, one JSON line each.

    It is written before the repository is: a crash may leave a line too many, never one too few.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[dict[str, Any]] = []
        if path.exists():
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                what = f"{path}:{number}"
                entry = canonical.from_bytes(line, what=what)
                canonical.Fields(entry, what).integer("seq")
                self._entries.append(entry)

    @property
    def last_seq(self) -> int:
        """Number of the last release; 0 before the first."""
        return max((int(one["seq"]) for one in self._entries), default=0)

    def check_not_rolled_back(self, repository: Repository, repo: Path) -> None:
        """Is the repository as new as what was signed for?

        Raises:
            ConfigError: it is not.
        """
        # the last line's own publication may have been interrupted, hence one less
        expected = max((int(one["version"]) for one in self._entries), default=1) - 1
        if repository.version < expected:
            raise ConfigError(
                f"{repo}: the repository is at version {repository.version}, but version {expected} was published; "
                f"somebody put an old copy back"
            )

    def replays(self, used: Sequence[VerifiedEvidence], *, artifact: str, evidence: str) -> list[str]:
        """Why statements cannot be used for an artifact: they were, for another one."""
        reasons = []
        for entry in self._entries:
            if (entry["artifact"], entry["evidence"]) == (artifact, evidence):
                continue  # an interrupted publication of the same thing is taken up again
            reasons += [
                f"{one.path.name}: its nonce was used up by release {entry['seq']}; run the tests again"
                for one in used
                if one.statement.nonce in entry["nonces"]
            ]
        return reasons

    def append(self, entry: dict[str, Any]) -> None:
        """Remember one more."""
        self._entries.append(entry)
        lines = [json.dumps(one, sort_keys=True).encode("ascii") + b"\n" for one in self._entries]
        write_atomically(self._path, b"".join(lines), mode=0o600)

# ruff: noqa: INP001 - a script, of no package
"""Fuzzes everything that reads bytes which nobody has reason to trust, guided by coverage (atheris, libFuzzer).

    pip install atheris
    python scripts/fuzz_readers.py TARGET [-max_total_time=60] [CORPUS…]

Targets: ``manifest`` (host), ``board-manifest``, ``unpack`` (host and board, below the gzip), ``patch`` (deltas),
``frames`` (board). Each reader may end with its own error, in one line; anything else is a finding. Exits with 77
when atheris is not installed.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SKIPPED = 77

try:
    import atheris  # type: ignore[import-not-found]
except ImportError:
    print("not fuzzed: atheris is not installed", file=sys.stderr)
    raise SystemExit(SKIPPED) from None

with atheris.instrument_imports(include=["pytest_edgehil"]):
    from pytest_edgehil.artifacts import bundle, manifest
    from pytest_edgehil.errors import CorruptArtifact, UnsafeArchive
    from pytest_edgehil.onboard import frames, patch, unpack
    from pytest_edgehil.onboard.home import Home
    from pytest_edgehil.onboard.problem import Problem

ROOM = Path(tempfile.mkdtemp())
CODES = {"corrupt-artifact", "unsafe-archive", "truncated", "bad-request", "not-in-store", "bad-frame"}


def refused_only(call: Callable[[], object]) -> None:
    """Run a reader; it may accept, or refuse in one printable line."""
    try:
        call()
    except (CorruptArtifact, UnsafeArchive) as problem:
        said = str(problem)
    except Problem as problem:
        if problem.code not in CODES:
            raise
        said = problem.message
    else:
        return
    if not said or "\n" in said or "\x1b" in said:
        raise AssertionError(f"not one printable line: {said!r}")


def fuzz_manifest(data: bytes) -> None:
    """The host's reader of manifests."""
    refused_only(lambda: manifest.parse(data))


def fuzz_board_manifest(data: bytes) -> None:
    """The board's reader of manifests; what the host accepts, it must accept."""
    refused_only(lambda: unpack.parse_manifest(data))
    try:
        manifest.parse(data)
    except CorruptArtifact:
        return
    unpack.parse_manifest(data)


def fuzz_unpack(data: bytes) -> None:
    """Both readers of bundles, below the gzip, which a mutation would only ever break."""
    path = ROOM / "x.tar.gz"
    path.write_bytes(gzip.compress(data, compresslevel=0, mtime=0))
    refused_only(lambda: bundle.read(path))
    into = ROOM / "into"
    into.mkdir()
    try:
        refused_only(lambda: unpack.unpack(path, into))
    finally:
        from pytest_edgehil.onboard.home import remove

        remove(into)
    if {one.name for one in ROOM.iterdir()} != {"x.tar.gz"}:
        raise AssertionError(f"something was written beside: {sorted(ROOM.iterdir())}")


def fuzz_patch(data: bytes) -> None:
    """Deltas against an empty store; never more than was announced."""
    home, source = Home(ROOM), io.BytesIO(data)

    def apply() -> None:
        head = patch.read_head(source.read)
        made = 0
        for piece in patch.patched(home, head, source.read):
            made += len(piece)
            if made > head.stream_bytes * 1.001 + 64:
                raise AssertionError("more than announced")

    refused_only(apply)


def fuzz_frames(data: bytes) -> None:
    """The board's reader of requests."""
    ours, theirs = os.pipe()
    try:
        os.write(theirs, data[:60_000])  # a pipe holds 64 KiB
        os.close(theirs)
        reader = frames.FrameReader(ours)

        def read() -> None:
            while reader.read() is not None:
                pass

        refused_only(read)
    finally:
        os.close(ours)


TARGETS = {
    "manifest": fuzz_manifest,
    "board-manifest": fuzz_board_manifest,
    "unpack": fuzz_unpack,
    "patch": fuzz_patch,
    "frames": fuzz_frames,
}


def main() -> int:
    """Runs one target until libFuzzer's options end it."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print(f"usage: fuzz_readers.py {'|'.join(TARGETS)} [libFuzzer options]", file=sys.stderr)
        return 2
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

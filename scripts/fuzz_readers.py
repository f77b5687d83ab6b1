# ruff: noqa: INP001 - a script, of no package
"""Fuzzes everything that reads bytes which nobody has reason to trust, guided by coverage (atheris, libFuzzer).

    pip install atheris
    python scripts/fuzz_readers.py TARGET [-max_total_time=60] [CORPUS…]

Targets: ``manifest`` (host), ``board-manifest``, ``unpack`` (host and board, below the gzip), ``patch`` (deltas of a
small bundle that is in the store), ``published-delta`` (the host's reader of ``.ehdelta``, below the gzip),
``gaps`` (differences, below the compression), ``tensors`` (the walk through an ONNX file), ``sink`` (the whole of what
a host pushes), ``frames`` and ``slots`` (board), ``prompts``, ``recipe`` and ``policy`` (files that people write),
``prompt-artifact``. Each reader may end with its own
error, in one line; anything else is a finding. Exits with 77 when atheris is not installed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
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
    from pytest_edgehil.artifacts import bundle, manifest, prompts, recipe, ustar
    from pytest_edgehil.artifacts.delta import published, tensors
    from pytest_edgehil.errors import CorruptArtifact, UnsafeArchive, UserError
    from pytest_edgehil.onboard import frames, gaps, patch, sink, unpack
    from pytest_edgehil.onboard import manifest as board_manifest
    from pytest_edgehil.onboard.home import Home
    from pytest_edgehil.onboard.problem import Problem
    from pytest_edgehil.onboard.slots import chosen
    from pytest_edgehil.release import policy

ROOM = Path(tempfile.mkdtemp())
CODES = {
    "corrupt-artifact", "unsafe-archive", "truncated", "bad-request", "not-in-store", "bad-frame", "digest-mismatch"
}  # fmt: skip
os.fsync = lambda _descriptor: None  # what lasts is not the question here, and it is most of the time


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
    try:
        manifest.parse(data)
    except CorruptArtifact:
        refused_only(lambda: board_manifest.parse_manifest(data))
    else:
        board_manifest.parse_manifest(data)


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
    beside = {one.name for one in ROOM.iterdir()} - BEFORE
    if beside != {"x.tar.gz"}:
        raise AssertionError(f"something was written beside: {beside}")


def known_bundle() -> tuple[Home, str]:
    """A board whose store holds one bundle, of 200 kB in stored blocks; its digest."""
    home = Home(ROOM)
    home.prepare()
    content = bytes(range(256)) * 800
    packed = io.BytesIO()
    writer = ustar.StoredGzip(packed)
    writer.write(content)
    writer.finish()
    digest = f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"
    home.bundle(digest).write_bytes(packed.getvalue())
    return home, digest


HOME, KNOWN = known_bundle()
BEFORE = {one.name for one in ROOM.iterdir()}
WANTED = b"what is wanted, once it is here: " * 9
DIGEST = f"sha256:{hashlib.sha256(WANTED).hexdigest()}"


def delta_of(data: bytes) -> bytes:
    """A delta with the right header, since a mutation of that is found out at once, and any operations."""
    if data[:1] != b"\x00":
        return data
    text = (
        f'{{"result":{{"digest":"{DIGEST}","size_bytes":{len(WANTED)}}},"sources":["{KNOWN}"],'
        f'"stream_bytes":{int.from_bytes(data[1:4], "little") + 1}}}'
    ).encode()
    return patch.MAGIC + struct.pack("<I", len(text)) + text + data[4:]


def fuzz_patch(data: bytes) -> None:
    """Deltas of a bundle that is there; never more than was announced."""
    source = io.BytesIO(delta_of(data))

    def apply() -> None:
        head = patch.read_head(source.read)
        made = 0
        for piece in patch.patched(HOME, head, source.read):
            made += len(piece)
            if made > head.stream_bytes * 1.001 + 64:
                raise AssertionError("more than announced")

    refused_only(apply)


def fuzz_published_delta(data: bytes) -> None:
    """A delta as a file: whatever it says, it gives the bytes that its manifest has the digest of, or none."""
    path = ROOM / "x.ehdelta"
    path.write_bytes(gzip.compress(data, compresslevel=0, mtime=0))
    refused_only(lambda: published.read(path))


def fuzz_gaps(data: bytes) -> None:
    """Differences of 200 elements: as many come out, or none."""
    size, steps, between = 200, int(data[0]) if data else 0, int(data[1]) if len(data) > 1 else 0
    first, places = data[2 : 2 + steps], data[2 + steps : 2 + steps + between]
    values = (data[2 + steps + between :] + bytes(256))[: gaps.count_of(places)]

    def read() -> None:
        made = (gaps.from_steps if steps & 1 else gaps.from_trits)(first, places, values, size)
        if len(made) > size:
            raise AssertionError("more than was asked for")

    refused_only(read)


def fuzz_tensors(data: bytes) -> None:
    """The walk through an ONNX file: ranges within it, or nothing."""
    for one in tensors.tensors(memoryview(data)):
        if not one.file and not 0 <= one.start <= one.start + one.size_bytes <= len(data):
            raise AssertionError(f"beyond the file: {one}")


def pushed_of(data: bytes) -> bytes:
    """What a host says: with a first byte of 1 or 2 its first line is right, behind a 2 comes a delta in one frame."""
    if data[:1] == b"\x01":
        return b'{"what": "bytes", "from": 0}\n' + data[1:]
    if data[:1] == b"\x02":
        delta = delta_of(b"\x00" + data[1:])
        return b'{"what": "delta"}\n' + struct.pack(">BII", 0, len(delta), len(delta)) + delta + LAST
    return data


LAST = struct.pack(">BII", 2, 0, 0)


def fuzz_sink(data: bytes) -> None:
    """All that a host can say to the sink: nothing but the bundle that is wanted gets its name."""
    ours, theirs = os.pipe()
    try:
        os.write(theirs, pushed_of(data)[:60_000])  # a pipe holds 64 KiB
        os.close(theirs)
        refused_only(
            lambda: sink.sink(
                HOME, digest=DIGEST, size=len(WANTED), token=1, holder="me", source=ours, tell=lambda _message: None
            )
        )
    finally:
        os.close(ours)
    path = HOME.bundle(DIGEST)
    if path.exists():
        if path.read_bytes() != WANTED:
            raise AssertionError("something else has got its name")
        path.unlink()
    beside = {one.name for one in HOME.store.iterdir()} - {KNOWN[7:], f".{DIGEST[7:]}.partial"}
    if beside:
        raise AssertionError(f"left behind: {beside}")


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


def read_file(name: str, data: bytes, load: Callable[[Path], object]) -> None:
    """What people write: a file that is wrong is a user's mistake, told in lines that can be printed."""
    path = ROOM / name
    path.write_bytes(data)
    try:
        load(path)
    except UserError as problem:
        said = str(problem)
        if not said or "\x1b" in said or not all(line.isprintable() for line in said.splitlines()):
            raise AssertionError(f"not printable: {said!r}") from problem


def fuzz_prompts(data: bytes) -> None:
    """Prompt bundles, and the tests that they carry."""
    read_file("prompts.yaml", data, lambda path: prompts.load_prompts(path).failures())


def fuzz_prompt_artifact(data: bytes) -> None:
    """``prompt.json`` of an artifact."""
    read_file("prompt.json", data, lambda path: prompts.parse_prompts(path.read_bytes()))


def fuzz_recipe(data: bytes) -> None:
    """Recipes; what they name is not there."""
    read_file("recipe.yaml", data, recipe.load_recipe)


def fuzz_policy(data: bytes) -> None:
    """Release policies."""
    read_file("policy.yaml", data, policy.load_policy)


def fuzz_slots(data: bytes) -> None:
    """What a host says of a board's slots."""
    refused_only(lambda: chosen(data.decode(errors="surrogateescape")))


TARGETS = {
    "manifest": fuzz_manifest,
    "board-manifest": fuzz_board_manifest,
    "unpack": fuzz_unpack,
    "patch": fuzz_patch,
    "published-delta": fuzz_published_delta,
    "gaps": fuzz_gaps,
    "tensors": fuzz_tensors,
    "sink": fuzz_sink,
    "frames": fuzz_frames,
    "prompts": fuzz_prompts,
    "prompt-artifact": fuzz_prompt_artifact,
    "recipe": fuzz_recipe,
    "policy": fuzz_policy,
    "slots": fuzz_slots,
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

"""Every kind of hostile input at every door it could come in by: refused in one printable line, and nothing is written.

The doors: the host's reader, `Store.add`, the board's reader, for bundles of a model, of a prompt, of a firmware tree
and of a firmware of images; the reader of published deltas and `Store.add` of one; the board's sink. What a word means
for a kind of file is one row of a table here, so that a test's id reads ``traversal-firmware-image-board``. What else
is off inside of manifests is in ``test_hostile_bundles.py``, of deltas in ``test_delta_coding.py`` and
``test_delta.py``, of whole archives in ``test_hostile_archives.py``.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import struct
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bundles import manifest_json, member, sha256

from pytest_edgehil.artifacts import bundle as host
from pytest_edgehil.artifacts.delta import published
from pytest_edgehil.artifacts.prompts import parse_prompts
from pytest_edgehil.artifacts.store import Store
from pytest_edgehil.errors import CorruptArtifact, RecipeError, UnsafeArchive
from pytest_edgehil.onboard import sink, slots, unpack
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem

Members = list[tuple[tarfile.TarInfo, bytes]]

IDENTITY = b'{"name":"edge-os","version":"1"}'
PROMPT = (
    b'{"guardrails":{"input":{"allow":[],"deny":[],"languages":[],"max_length":8192},"output":{"allow":[],"deny":[],'
    b'"languages":[],"max_length":8192}},"models":[{"name":"digits","versions":["*"]}],"templates":{"t":"{{digit}}"},'
    b'"tests":[{"expect":["7"],"forbid":[],"name":"seven","template":"t","values":{"digit":7}}],'
    b'"variables":{"digit":{"choices":[],"type":"integer"}}}'
)
KINDS: dict[str, tuple[dict[str, bytes], dict[str, Any]]] = {
    "model": ({"model.onnx": b"weights", "notes/a": b"1"}, {}),
    "prompt": ({"prompt.json": PROMPT}, {"track": "prompt", "format": "prompt-bundle", "quantisation": "none"}),
    "firmware-tree": (
        {"firmware.json": IDENTITY, "bin/app": b"x"},
        {"track": "firmware", "format": "firmware-tree", "quantisation": "none", "entry": "firmware.json"},
    ),
    "firmware-image": (
        {"firmware.json": IDENTITY, "root.img": b"image"},
        {"track": "firmware", "format": "firmware-image", "quantisation": "none", "entry": "firmware.json"},
    ),
}
DELTA = "delta"
EMPTY = gzip.compress(b"", mtime=0)


def packed(members: Iterable[tuple[tarfile.TarInfo, bytes]], *, behind: bytes = b"") -> bytes:
    raw = io.BytesIO()
    for info, data in members:
        raw.write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"))
        raw.write(data + bytes(-len(data) % 512))
    raw.write(bytes(1024) + behind)
    return gzip.compress(raw.getvalue(), compresslevel=1, mtime=0)


def delta_manifest(**changes: Any) -> bytes:
    document = {
        "schema": 1, "name": "digits", "version": "1.1.0", "track": "model",
        "result": {"digest": sha256(b"new"), "size_bytes": 3},
        "delta": {"digest": sha256(b"EHDELTA2"), "size_bytes": 8}, "sources": [sha256(b"old")],
    }  # fmt: skip
    return json.dumps({**document, **changes}, sort_keys=True, separators=(",", ":")).encode()


def good(kind: str, **changes: Any) -> Members:
    """What each kind of file holds; a manifest changed at the top level as asked."""
    if kind == DELTA:
        return [member("manifest.json", delta_manifest(**changes)), member("delta", b"EHDELTA2")]
    files, fields = KINDS[kind]
    text = manifest_json(files, **{**fields, **changes})
    return [member("manifest.json", text), *(member(name, data) for name, data in sorted(files.items()))]


def last(kind: str) -> str:
    """The file that is made a hostile one."""
    return "delta" if kind == DELTA else max(KINDS[kind][0])


def instead(kind: str, info: tarfile.TarInfo, data: bytes = b"") -> bytes:
    """The last file replaced."""
    return packed([*good(kind)[:-1], (info, data)])


def listed(kind: str, name: str) -> bytes:
    """One more file, which the manifest lists too where it lists files."""
    if kind == DELTA:
        return packed([*good(kind), member(name, b"x")])
    files, fields = KINDS[kind]
    more = {**files, name: b"x"}
    head = member("manifest.json", manifest_json(more, **{**fields, "entry": min(files)}))
    return packed([head, *(member(path, data) for path, data in sorted(more.items()))])


def resized(kind: str, size: int) -> bytes:
    """The manifest announces that size of the last file."""
    if kind == DELTA:
        return packed(good(kind, delta={"digest": sha256(b"EHDELTA2"), "size_bytes": size}))
    files = KINDS[kind][0]
    entries = [
        {"digest": sha256(data), "path": path, "size_bytes": size if path == last(kind) else len(data)}
        for path, data in sorted(files.items())
    ]
    return packed(good(kind, files=entries))


def digested(kind: str, digest: str) -> bytes:
    """The manifest gives that digest of the last file."""
    if kind == DELTA:
        return packed(good(kind, delta={"digest": digest, "size_bytes": 8}))
    files = KINDS[kind][0]
    entries = [
        {"digest": digest if path == last(kind) else sha256(data), "path": path, "size_bytes": len(data)}
        for path, data in sorted(files.items())
    ]
    return packed(good(kind, files=entries))


def manifest_of(kind: str, text: bytes) -> bytes:
    return packed([member("manifest.json", text), *good(kind)[1:]])


def sparse(kind: str) -> bytes:
    info, data = member(last(kind), b"x")
    info.size = 8**11 - 1  # the most that a header can say, with one byte behind it
    return packed([*good(kind)[:-1], (info, data)])


WORDS: dict[str, Callable[[str], bytes]] = {
    "traversal": lambda kind: listed(kind, "../../evil"),
    "traversal inside": lambda kind: listed(kind, "a/../../../evil"),
    "absolute path": lambda kind: listed(kind, "/tmp/evil"),
    "symbolic link": lambda kind: instead(kind, member(last(kind), type=tarfile.SYMTYPE, linkname="/etc/passwd")[0]),
    "hard link": lambda kind: instead(kind, member(last(kind), type=tarfile.LNKTYPE, linkname="manifest.json")[0]),
    "character device": lambda kind: instead(kind, member(last(kind), type=tarfile.CHRTYPE, devmajor=1)[0]),
    "block device": lambda kind: instead(kind, member(last(kind), type=tarfile.BLKTYPE, devmajor=8)[0]),
    "fifo": lambda kind: instead(kind, member(last(kind), type=tarfile.FIFOTYPE)[0]),
    "bomb that is announced": lambda kind: instead(kind, *member(last(kind), bytes(18 << 20))),
    "bomb behind the end": lambda kind: packed(good(kind), behind=bytes(18 << 20)),
    "duplicate name": lambda kind: packed([*good(kind), good(kind)[-1]]),
    "duplicate manifest": lambda kind: packed([*good(kind), good(kind)[0]]),
    "case collision": lambda kind: listed(kind, last(kind).upper()),
    "sparse file": lambda kind: instead(kind, member(last(kind), type=tarfile.GNUTYPE_SPARSE)[0]),
    "huge sparse size": sparse,
    "huge announced size": lambda kind: resized(kind, 2**62),
    "size beyond 64 bits": lambda kind: resized(kind, 2**70),
    "negative size": lambda kind: resized(kind, -1),
    "wrong digest": lambda kind: digested(kind, sha256(b"something else")),
    "digest that is none": lambda kind: digested(kind, "sha256:\x1b[31m"),
    "unknown field": lambda kind: packed(good(kind, surprise=1)),
    "unknown field with a control character": lambda kind: packed(good(kind, **{"\x1b[2J": 1})),
    "field twice": lambda kind: manifest_of(kind, good(kind)[0][1].replace(b'"schema":1', b'"schema":1,"schema":1')),
    "deep nesting": lambda kind: manifest_of(kind, b"[" * 100_000),
    "deep nesting in a field": lambda kind: manifest_of(
        kind, good(kind)[0][1].replace(b'"schema":1', b'"schema":' + b"[" * 50_000 + b"]" * 50_000)
    ),
    "name with a control character": lambda kind: packed(good(kind, name="digits\x1b[31m")),
    "name with a line": lambda kind: packed(good(kind, name="digits\nPASS")),
    "name from right to left": lambda kind: packed(good(kind, name="digits\u202e")),
    "version with a control character": lambda kind: packed(good(kind, version="1\x07")),
    "file name with a control character": lambda kind: listed(kind, "evil\x1b[31m"),
    "nothing": lambda _kind: b"",
    "no archive": lambda _kind: b"PK\x03\x04" + bytes(600),
    "nothing in a gzip": lambda _kind: EMPTY,
}  # fmt: skip


def everything(room: Path) -> set[tuple[str, int]]:
    return {(path.relative_to(room).as_posix(), path.lstat().st_size) for path in room.rglob("*") if path.is_file()}


def by_host(room: Path, path: Path) -> None:
    host.read(path)
    host.unpack(path, room / "into")


def by_store(room: Path, path: Path) -> None:
    Store.open(str(room / "store")).add(path)


def by_board(room: Path, path: Path) -> None:
    home = Home(room / "board")
    digest = sha256(path.read_bytes())
    try:
        unpack.install(home, digest)
    finally:
        home.bundle(digest).unlink()


def by_reader_of_deltas(_room: Path, path: Path) -> None:
    published.read(path)


DOORS = {"host": by_host, "store": by_store, "board": by_board}
DELTA_DOORS = {"reader": by_reader_of_deltas, "store": by_store}
# A board looks at the bytes of an image when it writes them: see tests/contract/test_slots.py
LATER = ("wrong digest", "firmware-image", "board")
CELLS = [
    *(cell for cell in itertools.product(WORDS, KINDS, DOORS) if cell != LATER),
    *((word, DELTA, door) for word in WORDS for door in DELTA_DOORS),
]


def refused(room: Path, data: bytes, kind: str, door: str) -> str:
    """Bring it to a door; it must be refused in one printable line, and leave everything as it was."""
    home = Home(room / "board")
    home.prepare()
    path = room / ("x.ehdelta" if kind == DELTA else "x.tar.gz")
    path.write_bytes(data)
    before = everything(room)
    if door == "board":
        home.bundle(sha256(data)).write_bytes(data)
    with pytest.raises((CorruptArtifact, UnsafeArchive, Problem)) as caught:
        (DELTA_DOORS if kind == DELTA else DOORS)[door](room, path)
    said = caught.value.message if isinstance(caught.value, Problem) else str(caught.value)
    assert said
    assert said.isprintable()
    assert everything(room) == before
    return said


@pytest.mark.parametrize(("word", "kind", "door"), CELLS, ids=["-".join(cell).replace(" ", "_") for cell in CELLS])
def test_hostile_input_is_refused_at_the_door(tmp_path: Path, word: str, kind: str, door: str) -> None:
    refused(tmp_path, WORDS[word](kind), kind, door)


@pytest.mark.parametrize("kind", [*KINDS, DELTA])
def test_what_is_not_hostile_comes_in_by_every_door(tmp_path: Path, kind: str) -> None:
    for door in DELTA_DOORS if kind == DELTA else DOORS:
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            refused(tmp_path, packed(good(kind)), kind, door)


# --- what only images can get wrong ------------------------------------------------------------------

IMAGES: dict[str, dict[str, bytes]] = {
    "no image": {"firmware.json": IDENTITY},
    "more than images": {"firmware.json": IDENTITY, "root.img": b"x", "run.sh": b"x"},
    "an image in a directory": {"firmware.json": IDENTITY, "a/root.img": b"x"},
    "an image with a name that is none": {"firmware.json": IDENTITY, "Root.img": b"x"},
    "an image without a name": {"firmware.json": IDENTITY, ".img": b"x"},
    "a name beyond its limit": {"firmware.json": IDENTITY, f"{'a' * 33}.img": b"x"},
    "an image that looks like an option": {"firmware.json": IDENTITY, "-of.img": b"x"},
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("files", IMAGES.values(), ids=IMAGES)
def test_a_firmware_of_images_holds_images_and_its_identity_only(
    tmp_path: Path, files: dict[str, bytes], door: str
) -> None:
    head = member("manifest.json", manifest_json(files, **KINDS["firmware-image"][1]))
    data = packed([head, *(member(name, content) for name, content in sorted(files.items()))])
    refused(tmp_path, data, "firmware-image", door)


def test_an_identity_that_is_nested_without_end_is_no_identity(tmp_path: Path, monkeypatch: Any) -> None:
    from pytest_edgehil.onboard.slots import directories, images

    monkeypatch.setenv("EDGEHIL_SYSROOT", str(tmp_path))
    for place in (tmp_path / "partitions/2/firmware.json", tmp_path / images.IDENTITY):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"[" * 100_000)
    assert directories.identity(2) is None
    assert images.running_identity() is None


# --- what a host says to the sink, and of the slots --------------------------------------------------

GOOD_LINE = b'{"what": "bytes", "from": 0}\n'
SINK: dict[str, tuple[dict[str, Any], bytes]] = {
    "traversal": ({"digest": "sha256:../../../etc/passwd"}, GOOD_LINE),
    "digest with a control character": ({"digest": "sha256:\x1b[31m" + "a" * 59}, GOOD_LINE),
    "digest in upper case": ({"digest": f"sha256:{'A' * 64}"}, GOOD_LINE),
    "digest that is no text": ({"digest": 7}, GOOD_LINE),
    "negative size": ({"size": -1}, GOOD_LINE + struct.pack(">BII", 0, 1, 1) + b"x" + struct.pack(">BII", 2, 0, 0)),
    "huge sparse size": ({"size": 2**62}, GOOD_LINE),
    "wrong digest": ({"size": 1}, GOOD_LINE + struct.pack(">BII", 0, 1, 1) + b"x" + struct.pack(">BII", 2, 0, 0)),
    "more than was announced": (
        {"size": 1}, GOOD_LINE + struct.pack(">BII", 0, 2, 2) + b"xy" + struct.pack(">BII", 2, 0, 0),
    ),
    "frame without end": ({"size": 10}, GOOD_LINE + struct.pack(">BII", 0, 2**32 - 1, 2**32 - 1)),
    "deep nesting": ({}, b"[" * 4000 + b"\n"),
    "line without end": ({}, b" " * 5000),
    "unknown way": ({}, b'{"what": "\\u001b[31m"}\n'),
    "start that was not offered": ({}, b'{"what": "bytes", "from": -9}\n'),
    "delta of something else": ({}, b'{"what": "delta"}\n' + struct.pack(">BII", 0, 12, 12) + b"EHDELTA2" + bytes(4)),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), SINK.values(), ids=SINK)
def test_the_sink_refuses_in_one_line_and_keeps_nothing(tmp_path: Path, changes: dict[str, Any], said: bytes) -> None:
    home = Home(tmp_path / "board")
    home.prepare()
    wanted: dict[str, Any] = {"digest": f"sha256:{hashlib.sha256(b'new').hexdigest()}", "size": 3, **changes}
    ours, theirs = os.pipe()
    try:
        os.write(theirs, said)
        os.close(theirs)
        with pytest.raises(Problem) as caught:
            sink.sink(home, **wanted, token=1, holder="me", source=ours, tell=lambda _message: None)
    finally:
        os.close(ours)
    assert caught.value.message.isprintable()
    assert [one.name for one in home.store.iterdir() if not one.name.endswith(".partial")] == []
    assert {one.name for one in tmp_path.iterdir()} == {"board"}


@pytest.mark.parametrize("declared", ["[" * 4000, "{", '{"partitions": [1]}', '{"devices": 7}', "\x1b[31m"])
def test_slots_that_cannot_be_read_are_told_in_one_line(declared: str) -> None:
    with pytest.raises(Problem) as caught:
        slots.chosen(declared)
    assert caught.value.message.isprintable()


# --- prompt.json of an artifact ----------------------------------------------------------------------


def spoiled(document: Any, draw: st.DataObject) -> Any:
    """The same, with something else somewhere."""
    if isinstance(document, dict) and document and draw.draw(st.integers(0, 4)):
        key = draw.draw(st.sampled_from(sorted(document)))
        if draw.draw(st.integers(0, 9)) == 0:
            return {**document, draw.draw(st.sampled_from(["\x1b[31m", "surprise", "\u202e", ""])): 1}
        return {**document, key: spoiled(document[key], draw)}
    if isinstance(document, list) and document and draw.draw(st.booleans()):
        return [spoiled(document[0], draw), *document[1:]]
    odd = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    return draw.draw(odd | st.sampled_from(["(a+)+$", "{{", "{{digit}}", "\x1b]0;x\x07"]) | st.lists(odd, max_size=2))


def read_prompts(data: bytes) -> None:
    """It may be one; then it is itself. If not, the reason is one printable line."""
    try:
        bundle, said = parse_prompts(data), ""
    except RecipeError as problem:
        bundle, said = None, str(problem)
    assert said.isprintable()
    assert bundle is None or (bundle.data == data and isinstance(bundle.failures(), tuple))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_prompt_json_is_one_or_is_refused(data: st.DataObject) -> None:
    document = json.loads(PROMPT)
    for _ in range(data.draw(st.integers(0, 3))):
        document = spoiled(document, data)
    read_prompts(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[" * 100_000, b'{"a":' * 5000, b'{"\x1b":1}',
        PROMPT.replace(b'"templates"', b'"templates":{},"templates"'),
        PROMPT.replace(b'"t"', b'"\\u001b[31m"'), PROMPT.replace(b":7}", b":1e999}"), PROMPT.replace(b":7}", b":NaN}"),
        PROMPT.replace(b":7}", b":123456789012345678901234567890}"), PROMPT + b" ",
    ],
)  # fmt: skip
def test_a_prompt_json_that_is_off_is_refused(data: bytes) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_prompts(data)
    assert str(caught.value).isprintable()


def test_the_prompt_json_of_the_tests_above_is_fine() -> None:
    assert parse_prompts(PROMPT).failures() == ()

"""One hostile bundle, two readers: the host's and the board's refuse it in one line, and the file system is as before.

The bundles are made of whole parts (members, header fields, manifest fields), each possibly wrong, so that most of
them get far. What the host accepts, the board must accept, and understand alike.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bundles import archive, manifest_json, member, sha256

from pytest_edgehil.artifacts import bundle as host
from pytest_edgehil.artifacts import manifest as host_manifest
from pytest_edgehil.artifacts.delta.document import Head, Literal, write
from pytest_edgehil.errors import CorruptArtifact, UnsafeArchive
from pytest_edgehil.onboard import manifest as board_manifest
from pytest_edgehil.onboard import patch, unpack
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem

FILES = {"a/b": b"one", "model.onnx": b"weights"}
Tree = dict[str, tuple[int, int, str]]


def tree(directory: Path) -> Tree:
    """Everything below a directory: mode, size, content or target."""
    found = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.relative_to(directory).as_posix()] = (status.st_mode, status.st_size, content)
    return found


def read_by_host(path: Path, into: Path) -> str | None:
    """None when it is accepted."""
    try:
        host.read(path)
        host.unpack(path, into)
    except (CorruptArtifact, UnsafeArchive) as problem:
        return str(problem)
    return None


def read_by_board(home: Home, path: Path) -> str | None:
    data = path.read_bytes()
    name = sha256(data)
    home.bundle(name).write_bytes(data)
    before = tree(home.root)
    try:
        unpack.install(home, name)
    except Problem as problem:
        if problem.code not in {"corrupt-artifact", "unsafe-archive"}:
            raise
        said = problem.message
    else:
        return None
    assert tree(home.root) == before
    return said


def both(room: Path, path: Path) -> tuple[str | None, str | None]:
    """What the host's and the board's reader say; nothing may have changed outside of where each of them unpacks."""
    home = Home(room / "board")
    home.prepare()
    into = room / "host"
    before = {name: one for name, one in tree(room).items() if not name.startswith(("board", "host"))}
    said = read_by_host(path, into), read_by_board(home, path)
    after = {name: one for name, one in tree(room).items() if not name.startswith(("board", "host"))}
    assert after == before
    assert into.exists() == (said[0] is None)
    for line in said:
        assert line is None or (line.isprintable() and line)
    return said


MANIFESTS: dict[str, dict[str, Any]] = {
    "unknown field": {"surprise": 1},
    "unknown field in the target": {"target": {**json.loads(manifest_json(FILES))["target"], "surprise": 1}},
    "unknown field of a file": {"files": [{"path": "a", "digest": sha256(b""), "size_bytes": 0, "mode": 0o4755}]},
    "negative size": {"files": [{"path": "model.onnx", "digest": sha256(b"weights"), "size_bytes": -7}]},
    "size that is a float": {"files": [{"path": "model.onnx", "digest": sha256(b"weights"), "size_bytes": 7.0}]},
    "size beyond 64 bits": {"files": [{"path": "model.onnx", "digest": sha256(b"weights"), "size_bytes": 2**70}]},
    "digest that is none": {"files": [{"path": "model.onnx", "digest": "sha256:\x1b[31m\n", "size_bytes": 7}]},
    "digest of something else": {"files": [{"path": "model.onnx", "digest": sha256(b"other"), "size_bytes": 7}]},
    "name with a line in it": {"name": "digits\nPASS"},
    "name with an escape": {"name": "digits\x1b[2J"},
    "name from right to left": {"name": "digits\u202e8tni"},
    "half a character": {"version": "1\ud800"},
    "nul": {"version": "1\0"},
    "no version": {"version": ""},
    "provides an escape": {"artifact_provides": {"model.name": "\x1b]0;title\x07"}},
    "provides an object": {"artifact_provides": {"model.name": {"a": 1}}},
    "depends on a line": {"artifact_depends": {"firmware\n.version": ["1"]}},
    "entry that is a list": {"entry": ["model.onnx"]},
    "entry that is an object": {"entry": {"path": "model.onnx"}},
    "track that is nothing": {"track": "kernel\n"},
    "path beyond ASCII": {"files": [{"path": "modèle", "digest": sha256(b"weights"), "size_bytes": 7}]},
    "two spellings of a character": {
        "files": [{"path": path, "digest": sha256(b""), "size_bytes": 0} for path in ("\u00e9", "e\u0301")]
    },
    "case collision in a directory": {
        "files": [{"path": path, "digest": sha256(b""), "size_bytes": 0} for path in ("A/x", "a/X")]
    },
    "drive": {"files": [{"path": "C:model", "digest": sha256(b"weights"), "size_bytes": 7}]},
}


@pytest.mark.parametrize("changes", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_off_is_refused_by_both(tmp_path: Path, changes: dict[str, Any]) -> None:
    head = member("manifest.json", manifest_json(FILES, **changes))
    path = archive(tmp_path / "x.tar.gz", [head, *(member(name, data) for name, data in FILES.items())])
    by_host, by_board = both(tmp_path, path)
    assert by_host is not None
    assert by_board is not None


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_deep_nesting_is_refused_by_both(tmp_path: Path, depth: int) -> None:
    for text in (b"[" * depth, b'{"a":' * depth, b'{"artifact_provides":' + b"[" * depth + b"]" * depth + b"}"):
        by_host, by_board = both(tmp_path, archive(tmp_path / "x.tar.gz", [member("manifest.json", text)]))
        assert by_host is not None
        assert by_board is not None


names = st.sampled_from(
    [
        "model.onnx",
        "a/b",
        "a",
        "A/b",
        "../x",
        "/x",
        "a/../../x",
        "MODEL.onnx",
        "manifest.json",
        "x\x1b[1m",
        "x\ny",
        "é",
        "a//b",
        ".",
        "..",
        "./model.onnx",
        "a/",
        "b" * 100,
        "\u202ex",
        "C:x",
    ]
)
kinds = st.sampled_from([tarfile.REGTYPE] * 8 + [tarfile.AREGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
contents = st.sampled_from([b"", b"one", b"weights", b"x" * 600])
values = (
    st.none() | st.booleans() | st.integers(-1, 2**70) | st.text(max_size=6) | st.lists(st.text(max_size=3), max_size=2)
)
places = st.sampled_from(
    [(key,) for key in json.loads(manifest_json(FILES))]
    + [("target", key) for key in json.loads(manifest_json(FILES))["target"]]
    + [("files", 0, key) for key in ("path", "digest", "size_bytes", "more")]
    + [("artifact_provides", "model.name"), ("artifact_depends", "model.name"), ("extra",), ("health", "path")]
)


@st.composite
def bundles(draw: st.DrawFn) -> bytes:
    """A bundle that may be right, and is wrong in a few places otherwise."""
    listed = (
        dict(FILES) if draw(st.booleans()) else {draw(names): draw(contents) for _ in range(draw(st.integers(1, 3)))}
    )
    document = json.loads(manifest_json(listed))
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(places)
        inner = document
        for step in way:  # one before may have put something else there
            at_hand = inner if isinstance(inner, dict) else dict(enumerate(inner)) if isinstance(inner, list) else {}
            inner = at_hand.get(step)
        if isinstance(inner, dict):
            inner[last] = draw(values)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=draw(st.booleans()))
    members = [("manifest.json", text.encode("utf-8", "surrogatepass")), *listed.items()]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        members.insert(draw(st.integers(0, len(members))), (draw(names), draw(contents)))
    raw = bytearray()
    odd = draw(st.sampled_from([0, 0, 0, 1]))
    for path, data in members:
        info = tarfile.TarInfo(path)
        info.size = (
            draw(st.sampled_from([0, 1, 8**11 - 1, len(data) + 512])) if odd and draw(st.booleans()) else len(data)
        )
        info.type = draw(kinds) if odd else tarfile.REGTYPE
        info.linkname = "/etc/passwd" if info.type in {tarfile.SYMTYPE, tarfile.LNKTYPE} else ""
        try:
            raw += info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogatepass")
        except ValueError:  # too long for the format
            continue
        raw += data + bytes(-len(data) % 512)
    return gzip.compress(bytes(raw) + bytes(1024), compresslevel=1, mtime=0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bundles())
def test_whatever_a_bundle_is_made_of_both_refuse_it_or_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    room = tmp_path_factory.mktemp("room")
    path = room / "x.tar.gz"
    path.write_bytes(data)
    by_host, by_board = both(room, path)
    if by_host is None:
        assert by_board is None
        unpacked = Home(room / "board").tree(sha256(data))
        by_both = tree(unpacked)
        assert by_both.pop("manifest.json")
        assert by_both == tree(room / "host")


def test_a_delta_that_claims_another_result_makes_what_has_not_that_digest(tmp_path: Path) -> None:
    """`patch` yields bytes and `sink` holds them to the digest; so what comes out must not be taken for more."""
    import io

    home = Home(tmp_path / "board")
    home.prepare()
    claimed = sha256(b"something good")
    content = b"something evil"
    head = Head(digest=claimed, size_bytes=len(content) + 23, stream_bytes=len(content), sources=())
    source = io.BytesIO(b"".join(write(head, [Literal(data=content)])))
    made = b"".join(patch.patched(home, patch.read_head(source.read), source.read))
    assert sha256(made) != claimed
    assert gzip.decompress(made) == content
    assert list(home.store.iterdir()) == []


# --- host and board keep the same rules --------------------------------------------------------------

RULES = {
    "format of another track": {"format": "firmware-tree"},
    "no quantisation": {"quantisation": "none"},
    "quantisation that is no word": {"quantisation": "INT 8"},
    "name in upper case": {"name": "Digits"},
    "name beyond its length": {"name": "d" * 65},
    "version with a blank": {"version": "1 0"},
    "no file": {"files": []},
    "files that are not sorted": {
        "files": [{"path": path, "digest": sha256(b""), "size_bytes": 0} for path in ("model.onnx", "a/b")]
    },
    "no entry": {"entry": None},
    "true as schema": {"schema": True},
    "latency that is a float": {"budgets": {"p95_latency_us": 1.5, "peak_rss_bytes": None, "size_bytes": None}},
    "latency of nothing": {"budgets": {"p95_latency_us": 0, "peak_rss_bytes": None, "size_bytes": None}},
    "memory as text": {"budgets": {"p95_latency_us": None, "peak_rss_bytes": "1 MiB", "size_bytes": None}},
    "memory beyond 2^53": {"budgets": {"p95_latency_us": None, "peak_rss_bytes": 2**53, "size_bytes": None}},
    "budget that there is not": {
        "budgets": {"p95_latency_us": None, "peak_rss_bytes": None, "size_bytes": None, "x": 1}
    },
    "no budgets": {"budgets": None},
    "timing without a report": {"timing": [{"task": "t", "budget_us": 1, "tool": "x"}]},
    "timing of nothing": {"timing": [{"task": "t", "budget_us": 0, "tool": "x", "report": sha256(b"")}]},
    "timing with a task twice": {"timing": [{"task": "t", "budget_us": 1, "tool": "x", "report": sha256(b"")}] * 2},
    "health of no file": {"health": {"path": "x", "timeout_s": 1}},
    "health that takes an hour and a second": {"health": {"path": "model.onnx", "timeout_s": 3601}},
    "provenance that is no digest": {
        "provenance": {"source": "x", "recipe": sha256(b""), "calibration": None, "tools": {}}
    },
    "tool with an escape": {
        "provenance": {"source": sha256(b""), "recipe": sha256(b""), "calibration": None, "tools": {"a\x1b": "1"}}
    },
    "depends on nothing": {"artifact_depends": {"model.name": []}},
    "key that is none": {"artifact_provides": {"model name": "x"}},
}  # fmt: skip
TARGETS = {
    "no class": {"board_classes": []},
    "class with a blank": {"board_classes": ["pi 5"]},
    "page size that no kernel has": {"page_sizes_bytes": [4097]},
    "machine that is none": {"architectures": ["arm 64"]},
    "versions without a runtime": {"runtime": None, "min_runtime_version": "1"},
    "range that is empty": {"runtime": "onnxruntime", "min_runtime_version": "2", "below_runtime_version": "1.9"},
    "version that is none": {"runtime": "onnxruntime", "min_runtime_version": "1.x"},
}


def said_by_both(data: bytes) -> tuple[str | None, str | None]:
    """What the two readers of manifests say."""
    try:
        host_manifest.parse(data)
        by_host = None
    except CorruptArtifact as problem:
        by_host = str(problem)
    try:
        board_manifest.parse_manifest(data)
        by_board = None
    except Problem as problem:
        by_board = problem.message
    return by_host, by_board


ALL_RULES = {**RULES, **{name: {"target": one} for name, one in TARGETS.items()}}


@pytest.mark.parametrize("changes", ALL_RULES.values(), ids=ALL_RULES)
def test_a_rule_of_the_manifest_is_kept_by_both(changes: dict[str, Any]) -> None:
    document = json.loads(manifest_json(FILES))
    if "target" in changes:
        changes = {"target": {**document["target"], **changes["target"]}}
    text = json.dumps({**document, **changes}, sort_keys=True, separators=(",", ":")).encode()
    for said in said_by_both(text):
        assert said
        assert said.isprintable()


def test_another_spelling_of_a_manifest_is_refused_by_both() -> None:
    document = json.loads(manifest_json(FILES))
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert said_by_both(canonical) == (None, None)
    for text in (
        json.dumps(document, sort_keys=True).encode(),
        canonical + b"\n",
        canonical.replace(b"model", b"\\u006dodel"),
    ):
        assert None not in said_by_both(text)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_what_one_reader_of_manifests_takes_the_other_takes_too(data: st.DataObject) -> None:
    document = json.loads(manifest_json(FILES))
    odd = values | st.floats(0, 5) | st.sampled_from(["none", "fp32", "1.20", "*", "model.onnx", "prompt", sha256(b"")])
    for _ in range(data.draw(st.integers(0, 3))):
        inner = document
        while True:
            key = data.draw(st.sampled_from(sorted(inner)))
            if isinstance(inner[key], dict) and inner[key] and data.draw(st.booleans()):
                inner = inner[key]
            else:
                break
        if data.draw(st.integers(0, 9)) == 0:
            del inner[key]
        else:
            inner[key] = data.draw(odd)
        if not inner:
            break
    by_host, by_board = said_by_both(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    assert (by_host is None) == (by_board is None), (by_host, by_board)

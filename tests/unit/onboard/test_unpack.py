"""Bundles that nobody has reason to trust: refused with one line, and nothing is written outside of the store."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.boards import archive, bundle, digest

from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.manifest import parse_manifest
from pytest_edgehil.onboard.problem import Problem
from pytest_edgehil.onboard.unpack import Limits, install, unpack


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.prepare()
    return home


def store(home: Home, data: bytes) -> str:
    name = digest(data)
    home.bundle(name).write_bytes(data)
    return name


def everything_below(path):
    return {one.relative_to(path).as_posix() for one in path.rglob("*")}


def test_a_bundle_is_unpacked_as_its_manifest_says(home, tmp_path):
    artifact = bundle(tmp_path, {"model.onnx": b"weights" * 1000, "sub/run": b"#!"}, executable=frozenset({"sub/run"}))
    manifest = install(home, store(home, artifact.path.read_bytes()))
    tree = home.tree(artifact.digest)
    assert (manifest.name, manifest.version, manifest.track, manifest.entry) == ("tiny", "1.0.0", "model", "model.onnx")
    assert (tree / "model.onnx").read_bytes() == b"weights" * 1000
    assert (tree / "sub/run").stat().st_mode & 0o777 == 0o755
    assert (tree / "model.onnx").stat().st_mode & 0o777 == 0o644
    assert everything_below(home.trees) == {
        tree.name, f"{tree.name}/manifest.json", f"{tree.name}/model.onnx", f"{tree.name}/sub", f"{tree.name}/sub/run"
    }  # fmt: skip


def test_what_is_unpacked_already_stays(home, tmp_path):
    artifact = bundle(tmp_path, {"model.onnx": b"w"})
    name = store(home, artifact.path.read_bytes())
    install(home, name)
    before = (home.tree(name) / "model.onnx").stat().st_ino
    install(home, name)
    assert (home.tree(name) / "model.onnx").stat().st_ino == before


def test_the_packer_of_the_host_writes_what_the_board_reads(home, tmp_path):
    from pytest_edgehil.artifacts.replay import Trace, build_replay

    artifact = build_replay(Trace(latencies_ns=(5,)), name="trace", version="1.0.0", out_dir=tmp_path)
    manifest = install(home, store(home, artifact.path.read_bytes()))
    assert manifest.runtime == "replay"
    assert {one.path: one.digest for one in manifest.files} == {one.path: one.digest for one in artifact.manifest.files}


def fields(contents: dict[str, bytes], /, **change) -> dict:
    entries = [{"path": path, "digest": digest(one), "size_bytes": len(one)} for path, one in sorted(contents.items())]
    target = {
        "name": "any", "board_classes": ["*"], "architectures": [], "accelerators": [], "page_sizes_bytes": [],
        "runtime": None, "min_runtime_version": None, "below_runtime_version": None,
    }  # fmt: skip
    return {
        "schema": 1, "name": "x", "version": "1", "track": "model", "format": "onnx", "quantisation": "fp32",
        "target": target, "files": entries, "entry": min(contents, default=""), "artifact_provides": {},
        "artifact_depends": {}, "budgets": {"p95_latency_us": None, "peak_rss_bytes": None, "size_bytes": None},
        "timing": [], "health": None, "provenance": {
            "source": digest(b""), "recipe": digest(b""), "calibration": None, "tools": {},
        }, **change,
    }  # fmt: skip


def written(document: dict) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def made(contents: dict[str, bytes], members: list[tuple[str, bytes]] | None = None, /, **change) -> bytes:
    text = written(fields(contents, **change))
    return archive([("manifest.json", text), *(list(contents.items()) if members is None else members)])


def odd(kind: bytes, name: str = "evil", **attributes) -> bytes:
    """A bundle whose second member is no regular file."""
    buffer = io.BytesIO()
    text = written(fields({"a": b"1"}))
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.USTAR_FORMAT) as out:
        first = tarfile.TarInfo("manifest.json")
        first.size = len(text)
        out.addfile(first, io.BytesIO(text))
        info = tarfile.TarInfo(name)
        info.type = kind
        for key, value in attributes.items():
            setattr(info, key, value)
        out.addfile(info)
    return buffer.getvalue()


def with_format(kind: int, name: str) -> bytes:
    buffer = io.BytesIO()
    text = written(fields({"a": b"1"}))
    with tarfile.open(fileobj=buffer, mode="w:gz", format=kind) as out:
        for path, content in (("manifest.json", text), (name, b"1")):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


HOSTILE = {
    "parent": (made({"../../evil": b"1"}), "unsafe-archive"),
    "absolute": (made({"/tmp/evil": b"1"}), "unsafe-archive"),
    "dot": (made({"./a": b"1"}), "unsafe-archive"),
    "backslash": (made({"a\\b": b"1"}), "unsafe-archive"),
    "control character": (made({"a\nb": b"1"}), "unsafe-archive"),
    "manifest listed": (made({"MANIFEST.JSON": b"1"}), "unsafe-archive"),
    "case collision": (made({"a": b"1", "A": b"1"}), "unsafe-archive"),
    "file and directory": (made({"a": b"1", "a/b": b"1"}), "unsafe-archive"),
    "symlink": (odd(tarfile.SYMTYPE, linkname="/etc/passwd"), "unsafe-archive"),
    "hard link": (odd(tarfile.LNKTYPE, linkname="manifest.json"), "unsafe-archive"),
    "device": (odd(tarfile.CHRTYPE, devmajor=1, devminor=3), "unsafe-archive"),
    "fifo": (odd(tarfile.FIFOTYPE), "unsafe-archive"),
    "directory": (odd(tarfile.DIRTYPE), "unsafe-archive"),
    "pax": (with_format(tarfile.PAX_FORMAT, "ü" * 60), "unsafe-archive"),
    "gnu long name": (with_format(tarfile.GNU_FORMAT, "a" * 150), "corrupt-artifact"),
    "unannounced": (made({"a": b"1"}, [("a", b"1"), ("b", b"2")]), "corrupt-artifact"),
    "twice": (made({"a": b"1"}, [("a", b"1"), ("a", b"1")]), "corrupt-artifact"),
    "missing": (made({"a": b"1", "b": b"2"}, [("a", b"1")]), "corrupt-artifact"),
    "other size": (made({"a": b"1"}, [("a", b"12")]), "corrupt-artifact"),
    "other content": (made({"a": b"1"}, [("a", b"2")]), "corrupt-artifact"),
    "no manifest": (archive([("a", b"1")]), "corrupt-artifact"),
    "manifest last": (archive([("a", b"1"), ("manifest.json", b"{}")]), "corrupt-artifact"),
    "empty": (archive([]), "corrupt-artifact"),
    "not gzip": (b"PK\x03\x04 no tar at all", "corrupt-artifact"),
    "nothing": (b"", "corrupt-artifact"),
    "trailing member": (made({"a": b"1"}) + made({"b": b"2"}), "corrupt-artifact"),
    "trailing bytes": (made({"a": b"1"}) + b"x", "corrupt-artifact"),
    "schema": (made({"a": b"1"}, schema=2), "corrupt-artifact"),
    "entry": (made({"a": b"1"}, entry="b"), "corrupt-artifact"),
    "files no list": (made({"a": b"1"}, files={}), "corrupt-artifact"),
    "negative size": (made({}, files=[{"path": "a", "digest": digest(b""), "size_bytes": -1}]), "corrupt-artifact"),
    "true as size": (made({}, files=[{"path": "a", "digest": digest(b""), "size_bytes": True}]), "corrupt-artifact"),
    "huge size": (made({}, files=[{"path": "a", "digest": digest(b""), "size_bytes": 2**60}]), "unsafe-archive"),
    "many files": (
        made({}, files=[{"path": f"f{n}", "digest": digest(b""), "size_bytes": 0} for n in range(5000)]),
        "unsafe-archive",
    ),
    "duplicate key": (archive([("manifest.json", b'{"schema":1,"schema":1}')]), "corrupt-artifact"),
    "deep nesting": (archive([("manifest.json", b"[" * 100_000)]), "corrupt-artifact"),
    "huge manifest": (archive([("manifest.json", b" " * (2**20 + 1))]), "unsafe-archive"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "code"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bundles_are_refused_and_leave_nothing(home, tmp_path, data, code):
    name = store(home, data)
    outside = everything_below(tmp_path)
    with pytest.raises(Problem) as caught:
        install(home, name)
    assert caught.value.code == code
    assert "\n" not in caught.value.message
    assert everything_below(tmp_path) == outside


def test_a_bomb_is_refused_before_it_is_inflated(home, tmp_path):
    size = 300 * 2**20
    entry = {"path": "zeros", "digest": digest(b""), "size_bytes": size}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.USTAR_FORMAT) as out:
        for path, length in (("manifest.json", None), ("zeros", size)):
            text = written(fields({}, files=[entry], entry="zeros"))
            info = tarfile.TarInfo(path)
            info.size = len(text) if length is None else length
            out.addfile(info, io.BytesIO(text) if length is None else _Zeros())
    name = store(home, buffer.getvalue())
    with pytest.raises(Problem, match="decompression bomb") as caught:
        install(home, name)
    assert caught.value.code == "unsafe-archive"


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def test_limits_are_kept(home, tmp_path):
    artifact = bundle(tmp_path, {"a": b"x" * 100, "b": b"y"})
    for limits in (Limits(files=1), Limits(file_bytes=99), Limits(total_bytes=100)):
        into = tmp_path / "into"
        into.mkdir()
        with pytest.raises(Problem, match="limits"):
            unpack(artifact.path, into, limits)
        into.rmdir()


def test_bytes_hidden_in_the_padding_are_noticed(home):
    raw = bytearray(gzip.decompress(made({"a": b"1"})))
    at = raw.index(b"ustar", 600) - 257 + 512
    assert raw[at : at + 1] == b"1"
    raw[at + 100] = 7
    with pytest.raises(Problem, match="padding"):
        install(home, store(home, gzip.compress(bytes(raw))))


def test_a_flipped_bit_in_a_header_is_noticed(home):
    raw = bytearray(gzip.decompress(made({"a": b"1"})))
    raw[10] ^= 1
    with pytest.raises(Problem, match="checksum"):
        install(home, store(home, gzip.compress(bytes(raw))))


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_no_mutation_of_a_bundle_escapes_or_crashes(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("fuzz")
    home = Home(root / "home")
    home.prepare()
    raw = bytearray(gzip.decompress(made({"a": b"1" * 600, "d/b": b"2"})))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    name = store(home, gzip.compress(bytes(raw)))
    if complaint(install, home, name) is not None:
        assert not home.tree(name).exists()
    assert {one.name for one in root.iterdir()} == {"home"}
    assert not list(home.trees.glob(".*"))


def complaint(call, *arguments) -> str | None:
    """Code of the problem that a call ends with; only these two may blame an artifact."""
    try:
        call(*arguments)
    except Problem as problem:
        if problem.code not in {"corrupt-artifact", "unsafe-archive"}:
            raise
        return problem.code
    return None


KEYS = ["schema", "files", "target", "name", "version", "track", "format", "entry", "path", "digest", "size_bytes"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner)))
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_manifest_or_is_refused(value):
    assert complaint(parse_manifest, json.dumps(value).encode()) == "corrupt-artifact"


def test_a_bundle_that_is_not_in_the_store_is_asked_for(home):
    with pytest.raises(Problem, match="push it first") as caught:
        install(home, "sha256:" + "a" * 64)
    assert caught.value.code == "not-in-store"


@pytest.mark.parametrize("name", ["../../etc/passwd", "sha256:..", "", None, 7, "sha256:" + "A" * 64])
def test_only_a_digest_becomes_a_file_name(home, name):
    with pytest.raises(Problem) as caught:
        home.bundle(name)
    assert caught.value.code == "bad-request"

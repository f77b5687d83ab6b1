"""A manifest has one spelling, and everything else is refused with one line."""

from __future__ import annotations

import contextlib
import json
from string import ascii_letters, ascii_lowercase, digits
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import DIGEST, manifest, manifest_json
from support.json_schema import violations

from pytest_edgehil.artifacts.manifest import check_paths, manifest_schema, parse, stem, to_bytes
from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model.artifact import (
    Budgets,
    FileEntry,
    HealthCheck,
    Manifest,
    Provenance,
    Target,
    TimingBudget,
    Track,
)

FILES = {"model.onnx": b"weights"}


def joined(alphabet: str, *, longest: int, parts: int, between: str) -> st.SearchStrategy[str]:
    """Words with something between them; what they are drawn from says what a regex would, in a fifth of the time."""
    drawn = st.lists(st.text(alphabet, min_size=1, max_size=longest), min_size=1, max_size=parts)
    return st.builds(str.join, st.sampled_from(between), drawn)


words = joined(ascii_lowercase + digits, longest=8, parts=3, between="._-")
versions = joined(ascii_letters + digits, longest=6, parts=4, between=".+_-")
digests = st.binary(min_size=32, max_size=32).map(lambda drawn: f"sha256:{drawn.hex()}")
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40)
keys = joined(ascii_letters + digits, longest=8, parts=3, between="._-")
sizes = st.integers(0, 2**53 - 1)
budgets = st.none() | st.integers(1, 2**53 - 1)
paths = st.lists(
    joined(ascii_lowercase + digits + "_.+@=,:~-", longest=10, parts=3, between="/"), min_size=1, max_size=5
)


def fits(candidates: list[str]) -> bool:
    try:
        check_paths(candidates)
    except ValueError:
        return False
    whole = "/".join(candidates).split("/")
    return not {".", ".."} & set(whole) and not any(path[1:2] == ":" or path == "manifest.json" for path in candidates)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    track, form = draw(
        st.sampled_from(
            [
                (Track.MODEL, "onnx"),
                (Track.MODEL, "replay"),
                (Track.PROMPT, "prompt-bundle"),
                (Track.FIRMWARE, "firmware-tree"),
            ]
        )
    )
    listed = sorted(draw(paths.filter(fits)))
    runtime = draw(st.none() | words)
    return Manifest(
        schema=1,
        name=draw(words),
        version=draw(versions),
        track=track,
        format=form,
        quantisation=draw(words.filter(lambda word: word != "none")) if track is Track.MODEL else "none",
        target=Target(
            name=draw(words),
            board_classes=tuple(draw(st.lists(words | st.just("pi5-*"), min_size=1, max_size=3))),
            architectures=tuple(draw(st.lists(st.sampled_from(["aarch64", "x86_64"]), max_size=2))),
            accelerators=tuple(draw(st.lists(st.sampled_from(["hailo8", "hailo10h"]), max_size=2))),
            page_sizes_bytes=tuple(draw(st.lists(st.sampled_from([4096, 16384]), max_size=2))),
            runtime=runtime,
            min_runtime_version=None if runtime is None else draw(st.none() | st.just("1.20")),
            below_runtime_version=None if runtime is None else draw(st.none() | st.just("2.0")),
        ),
        files=tuple(FileEntry(path=path, digest=draw(digests), size_bytes=draw(sizes)) for path in listed),
        entry=draw(st.sampled_from(listed)),
        provides=draw(st.dictionaries(keys, texts, max_size=3)),
        depends=draw(
            st.dictionaries(keys, st.lists(texts, min_size=1, max_size=3).map(tuple), max_size=3),
        ),
        budgets=Budgets(p95_latency_us=draw(budgets), peak_rss_bytes=draw(budgets), size_bytes=draw(budgets)),
        provenance=Provenance(
            source=draw(digests),
            recipe=draw(digests),
            calibration=draw(st.none() | digests),
            tools=draw(st.dictionaries(keys, texts, max_size=3)),
        ),
        timing=tuple(
            TimingBudget(task=task, budget_us=draw(st.integers(1, 10**9)), tool=draw(texts), report=draw(digests))
            for task in draw(st.lists(words, max_size=2, unique=True))
        ),
        health=None
        if track is Track.PROMPT or draw(st.booleans())
        else HealthCheck(path=draw(st.sampled_from(listed)), timeout_s=draw(st.integers(1, 3600))),
    )


@settings(max_examples=50)
@given(manifests())
def test_the_json_schema_takes_what_is_written(made: Manifest) -> None:
    assert list(violations(json.loads(to_bytes(made)), manifest_schema())) == []


@settings(max_examples=50)
@given(manifests())
def test_what_is_written_is_read_again_unchanged(made: Manifest) -> None:
    data = to_bytes(made)
    assert parse(data) == made
    assert to_bytes(parse(data)) == data


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_our_own_error(data: bytes) -> None:
    with pytest.raises(CorruptArtifact):
        parse(data)


@given(manifests(), st.data())
def test_a_changed_byte_is_refused_or_says_something_else(made: Manifest, data: st.DataObject) -> None:
    good = to_bytes(made)
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    with contextlib.suppress(CorruptArtifact):
        assert parse(changed) != made


def test_the_manifest_is_canonical_json() -> None:
    data = to_bytes(manifest())
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()


def refused(data: bytes) -> str:
    with pytest.raises(CorruptArtifact) as caught:
        parse(data, where="manifest.json of x.tar.gz")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("manifest.json of x.tar.gz: ")
    return line


def entry(**changes: Any) -> dict[str, Any]:
    return {"path": "model.onnx", "digest": DIGEST, "size_bytes": 7, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"surprise": 1}, "'surprise' is an unknown field"),
        ({"schema": 2}, "schema"),
        ({"schema": True}, "not in canonical form"),
        ({"name": "Digits"}, "name: 'Digits' is no name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a\u0000"}, "name"),
        ({"name": "a" * 65}, "name: 'aaaaaaaaaaaaaaaaaaaaaaaa'… has 65 characters"),
        ({"version": "../1"}, "version"),
        ({"track": "modell"}, "track"),
        ({"format": "zip"}, "format"),
        ({"format": "firmware-tree"}, "belongs to track 'firmware'"),
        ({"quantisation": "none"}, "does not go with track 'model'"),
        ({"entry": "other.onnx"}, "entry 'other.onnx' is not one of the files"),
        ({"entry": None}, "entry"),
        ({"files": []}, "files"),
        ({"files": [entry(size_bytes=-1)]}, "files[0].size_bytes: -1"),
        ({"files": [entry(size_bytes=7.0)]}, "files[0].size_bytes"),
        ({"files": [entry(size_bytes="7")]}, "files[0].size_bytes"),
        ({"files": [entry(size_bytes=2**53)]}, "files[0].size_bytes"),
        ({"files": [entry(size_bytes=True)]}, "files[0].size_bytes"),
        ({"files": [entry(digest="sha256:" + "AB" * 32)]}, "files[0].digest"),
        ({"files": [entry(digest="md5:" + "ab" * 16)]}, "files[0].digest"),
        ({"files": [entry(digest=DIGEST + "\n")]}, "files[0].digest"),
        ({"files": [entry(mode=493)]}, "'files[0].mode' is an unknown field"),
        ({"files": [entry(), entry()]}, "'model.onnx' is listed twice"),
        ({"files": [entry(path="Model.onnx"), entry()]}, "upper and lower case only"),
        ({"files": [entry(), entry(path="a")]}, "not sorted"),
        ({"files": [entry(path="model"), entry(), entry(path="model/x")]}, "is a file, so"),
        ({"files": [entry(path="/etc/passwd")]}, "'/etc/passwd' is absolute"),
        ({"files": [entry(path="C:evil")]}, "is absolute"),
        ({"files": [entry(path="../evil")]}, "'..'"),
        ({"files": [entry(path="a/../../evil")]}, "'..'"),
        ({"files": [entry(path="a//b")]}, "segment ''"),
        ({"files": [entry(path="a/")]}, "segment ''"),
        ({"files": [entry(path="./a")]}, "segment '.'"),
        ({"files": [entry(path="a\\b")]}, "characters"),
        ({"files": [entry(path="a\u001bb")]}, "characters"),
        ({"files": [entry(path="a\n")]}, "characters"),
        ({"files": [entry(path="ä")]}, "characters"),
        ({"files": [entry(path="")]}, "1 to 200 characters"),
        ({"files": [entry(path="a" * 201)]}, "1 to 200 characters"),
        ({"files": [entry(), entry(path="manifest.json")]}, ""),
        ({"artifact_depends": {"model.name": []}}, "artifact_depends.model.name"),
        ({"artifact_provides": {"model.name": "a\nb"}}, "artifact_provides.model.name"),
        ({"artifact_provides": {"a b": "x"}}, "artifact_provides"),
        ({"budgets": {"p95_latency_us": 0, "peak_rss_bytes": None, "size_bytes": None}}, "budgets.p95_latency_us"),
        ({"budgets": {"peak_rss_bytes": None, "size_bytes": None}}, "budgets.p95_latency_us: is missing"),
        ({"target": {"name": "any"}}, "target.board_classes: is missing"),
    ],
)
def test_whatever_is_off_is_named(changes: dict[str, Any], said: str) -> None:
    assert said in refused(manifest_json(FILES, **changes))


def test_the_unchanged_manifest_of_the_test_above_is_fine() -> None:
    assert parse(manifest_json(FILES)).name == "digits"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: good.replace(b'"schema":1', b'"schema":1,"schema":1'),
        lambda good: good.replace(b'"name":"digits"', b'"name":"other","name":"digits"'),
        lambda good: good.replace(b",", b", ", 1),
        lambda good: good + b"\n",
        lambda good: good.replace(b'"size_bytes":7', b'"size_bytes":7e0'),
        lambda good: good.replace(b'"digits"', b'"\\u0064igits"'),
        lambda good: b"\xef\xbb\xbf" + good,
    ],
    ids=["duplicate", "duplicate-other", "space", "newline", "exponent", "escape", "bom"],
)
def test_another_spelling_is_refused(spoil: Any) -> None:
    good = manifest_json(FILES)
    spoiled = spoil(good)
    assert spoiled != good
    refused(spoiled)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'{"schema":NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"\\ud800"',
        b"\xff\xfe",
        b" " * (1 << 21),
        b'{"schema":' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "null", "list", "nan", "brackets", "braces", "surrogate", "not-utf8", "huge", "long-number"],
)
def test_nonsense_is_refused(data: bytes) -> None:
    refused(data)


def test_a_manifest_that_breaks_a_rule_is_not_written_either() -> None:
    with pytest.raises(CorruptArtifact, match="no name"):
        to_bytes(manifest(name="Not A Name"))
    with pytest.raises(CorruptArtifact):
        to_bytes(manifest(provides={"k": "\ud800"}))
    with pytest.raises(CorruptArtifact):
        to_bytes(manifest(files=(FileEntry(path="model.onnx", digest=DIGEST, size_bytes=2**60),)))


def test_the_stem_has_the_quantisation_of_models_only() -> None:
    assert stem(manifest()) == "digits-1.0.0-pi5-int8-static"
    prompt = manifest(track=Track.PROMPT, format="prompt-bundle", quantisation="none")
    assert stem(prompt) == "digits-1.0.0-pi5"

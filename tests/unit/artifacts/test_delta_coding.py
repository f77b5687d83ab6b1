"""Differences come back from every shape at the cost of their entropy; tensors are found wherever a model has them."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pytest_edgehil.artifacts.delta import coding
from pytest_edgehil.artifacts.delta.coding import Code, Shape, Stream
from pytest_edgehil.artifacts.delta.document import Head, block, header
from pytest_edgehil.artifacts.delta.tensors import tensors
from pytest_edgehil.onboard import gaps, patch
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem

changes = st.lists(
    st.tuples(st.integers(0, 2000), st.sampled_from([0, 1, 255, 2, 16, 128, 254]) | st.integers(0, 255)), max_size=60
)


def applied(gap: coding.Gap, old: bytes) -> bytes:
    """What the board makes of it."""
    parts = dict(gap.parts)
    if gap.shape is Shape.PLANES:
        return gaps.added_planes(old, [data for _, data in gap.parts])
    if gap.shape is Shape.BYTES:
        return gaps.added(old, parts[Stream.BYTES], width=1)
    first, unpacked = (
        (parts[Stream.STEPS], gaps.from_steps) if gap.shape is Shape.STEPS else (parts[Stream.TRITS], gaps.from_trits)
    )
    assert gaps.count_of(parts[Stream.GAPS]) == len(parts[Stream.VALUES])
    return gaps.added(old, unpacked(first, parts[Stream.GAPS], parts[Stream.VALUES], len(old)), width=1)


@settings(max_examples=120, deadline=None)
@given(
    size=st.integers(1, 260).map(lambda count: 8 * count),
    changes=changes,
    width=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 99),
)
def test_a_difference_of_any_shape_is_added_again(
    size: int, changes: list[tuple[int, int]], width: int, seed: int
) -> None:
    old = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    new = old.copy()
    for at, by in changes:
        new[at % size] = (int(new[at % size]) + by) % 256
    for shape in coding.gap_shapes(width):
        assert applied(coding.difference(old, new, width=width, shape=shape), old.tobytes()) == new.tobytes()


@pytest.mark.parametrize(("share", "shape"), [(0.03, Shape.STEPS), (0.35, Shape.TRITS), (0.98, Shape.BYTES)])
def test_what_is_sent_is_hardly_more_than_the_entropy(share: float, shape: Shape) -> None:
    draw = np.random.default_rng(1)
    old = draw.integers(0, 256, 200_000, dtype=np.uint8)
    steps = draw.choice([1, 255], old.shape) if share < 0.9 else draw.integers(0, 12, old.shape)
    new = old + np.where(draw.random(old.shape) < share, steps, 0).astype(np.uint8)
    chosen, _ = coding.cheapest(old, new, width=1)
    assert chosen is shape
    sent = sum(len(coding.compressed(*part)[1]) for part in coding.difference(old, new, width=1, shape=shape).parts)
    _, counts = np.unique(new - old, return_counts=True)
    entropy = -(counts / old.size * np.log2(counts / old.size)).sum() * old.size / 8
    assert entropy < sent < 1.05 * entropy + 100


def test_small_changes_of_floats_leave_the_high_bytes_alone() -> None:
    draw = np.random.default_rng(2)
    old = draw.normal(size=4000).astype(np.float32)
    new = (old * (1 + 1e-4 * draw.normal(size=4000))).astype(np.float32)
    as_bytes = [np.frombuffer(one.tobytes(), dtype=np.uint8) for one in (old, new)]
    gap = coding.difference(*as_bytes, width=4, shape=Shape.PLANES)
    sizes = [len(coding.compressed(*part)[1]) for part in gap.parts]
    assert sizes[2] + sizes[3] < 100  # of 8000
    assert applied(gap, old.tobytes()) == new.tobytes()


def test_tensors_are_found_in_every_place_that_onnx_has_for_them() -> None:
    def values(by: float) -> np.ndarray:
        return by + np.arange(64, dtype=np.float32)

    typed = helper.make_tensor("typed", TensorProto.FLOAT, [64], values(0.5).tolist())
    double = helper.make_tensor("double", TensorProto.DOUBLE, [64], values(1.5).tolist())
    constant = helper.make_node("Constant", [], ["constant"], value=numpy_helper.from_array(values(2.5), "x"))
    inner = helper.make_graph([], "inner", [], [], [numpy_helper.from_array(values(3.5), "deep")])
    then = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)], "t", [], [])
    branch = helper.make_node("If", ["c"], ["z"], then_branch=then, else_branch=inner)
    graph = helper.make_graph([constant, branch], "net", [], [], [typed, double])
    function = helper.make_function(
        "net", "F", [], ["out"],
        [helper.make_node("Constant", [], ["out"], value=numpy_helper.from_array(values(4.5), "x"))],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    data = helper.make_model(graph, functions=[function]).SerializeToString()
    found = {one.name: one for one in tensors(memoryview(data))}
    assert set(found) == {"typed", "double", "constant", "deep", "out"}
    for name, by in (("typed", 0.5), ("constant", 2.5), ("deep", 3.5), ("out", 4.5)):
        one = found[name]
        assert np.array_equal(np.frombuffer(data[one.start : one.start + one.size_bytes], "<f4"), values(by))
    one = found["double"]
    assert np.array_equal(np.frombuffer(data[one.start : one.start + one.size_bytes], "<f8"), values(1.5).astype("f8"))


@pytest.mark.parametrize("data", [b"", b"\x3a\xff", b"\x3a\x02\x2a\x7f", b"no onnx", bytes(64)])
def test_what_is_no_onnx_has_no_tensors(data: bytes) -> None:
    assert tensors(memoryview(data)) == ()


def test_graphs_in_graphs_without_end_are_not_followed() -> None:
    data = onnx.GraphProto().SerializeToString()
    for _ in range(3000):  # an attribute with a graph, in a node, in a graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            size, varint = len(data), b""
            while size > 0x7F:
                varint, size = varint + bytes([size & 0x7F | 0x80]), size >> 7
            data = tag + varint + bytes([size]) + data
    assert tensors(memoryview(b"\x3a\x00" + data)) == ()


# --- blocks that a board must refuse -----------------------------------------------------------------


DIGEST = f"sha256:{'0' * 64}"
HOSTILE = {
    "no streams": (b"\x00", "does nothing"),
    "no operations": (block([(1, Code.RAW, 3, b"abc")]), "does nothing"),
    "a stream twice": (block([(0, Code.RAW, 2, b"\x00\x04"), (0, Code.RAW, 2, b"\x00\x04")]), "behind stream 0"),
    "a stream that there is not": (block([(22, Code.RAW, 2, b"\x00\x04")]), "has a stream 22"),
    "a stream of nothing": (block([(0, Code.RAW, 0, b"")]), "of 0 bytes"),
    "more sent than there is": (block([(0, Code.RAW, 1, b"\x00\x04")]), "sent as 2"),
    "a stream beyond the limit": (block([(0, Code.ZLIB, patch.MAX_BLOCK_BYTES + 1, b"x")]), "has a stream 0"),
    "streams beyond the limit": (
        block([(0, Code.RAW, 2, b"\x00\x04"), (1, Code.ZLIB, patch.MAX_BLOCK_BYTES - 1, b"x")]), "has a stream 1",
    ),
    "an unknown code": (block([(0, 3, 2, b"\x00")]), "unknown way"),
    "a number without end": (block([(0, Code.RAW, 11, b"\x00" + b"\xff" * 10)]), "does not end"),
    "an operation that there is not": (block([(0, Code.RAW, 4, b"\x09\x04\x00\x00")]), "has an operation 9"),
    "a source that there is not": (block([(0, Code.RAW, 4, b"\x02\x04\x01\x00")]), "of 1"),
    "an operation on nothing": (block([(0, Code.RAW, 4, b"\x02\x00\x00\x00")]), "asks for 0 bytes"),
    "more than was announced": (block([(0, Code.RAW, 5, b"\x02\xe9\x07\x00\x00")]), "asks for 1001"),
    "a place before the beginning": (block([(0, Code.RAW, 4, b"\x02\x04\x00\x03")]), "takes bytes -2"),
    "a literal of more than there is": (
        block([(0, Code.RAW, 2, b"\x00\x04"), (1, Code.RAW, 3, b"abc")]), "takes 4 bytes of stream 1",
    ),
    "bytes that nothing takes": (
        block([(0, Code.RAW, 3, b"\x00\xe8\x07"), (1, Code.RAW, 1001, bytes(1001))]), "nothing takes",
    ),
    "half an element": (block([(0, Code.RAW, 4, b"\x08\x0b\x00\x00")]), "elements of 8 bytes"),
    "steps that there are not": (
        block([(0, Code.RAW, 6, b"\x04\x0a\x00\x00\x01\x00"), (3, Code.RAW, 1, b"\xfd")]), "steps of 253",
    ),
    "steps beyond the end": (
        block([(0, Code.RAW, 6, b"\x04\x0a\x00\x00\x01\x00"), (3, Code.RAW, 1, b"\x14")]), "steps beyond its 10",
    ),
    "digits that there are not": (
        block([(0, Code.RAW, 5, b"\x05\x0a\x00\x00\x00"), (4, Code.RAW, 2, b"\xf3\x00")]), "digits out of range",
    ),
    "exceptions beyond the end": (
        block([
            (0, Code.RAW, 5, b"\x05\x0a\x00\x00\x01"), (4, Code.RAW, 2, b"\x00\x00"), (5, Code.RAW, 1, b"\x0a"),
            (6, Code.RAW, 1, b"\x07"),
        ]),
        "exceptions beyond its 10",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_block_that_is_off_is_refused(tmp_path, data: bytes, said: str) -> None:
    from pytest_edgehil.artifacts import ustar

    home = Home(tmp_path)
    home.prepare()
    with home.bundle(DIGEST).open("wb") as out:
        packed = ustar.StoredGzip(out)
        packed.write(bytes(1000))
        packed.finish()
    source = io.BytesIO(header(Head(digest=DIGEST, size_bytes=9, stream_bytes=1000, sources=(DIGEST,))) + data)
    with pytest.raises(Problem) as refused:
        list(patch.patched(home, patch.read_head(source.read), source.read))
    assert refused.value.code == "corrupt-artifact"
    assert said in refused.value.message
    assert refused.value.message.isprintable()

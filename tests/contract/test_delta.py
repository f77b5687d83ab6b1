"""What the host describes as a delta, the board makes again: byte for byte, or not at all."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import manifest

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.delta.create import Delta, create
from pytest_edgehil.artifacts.delta.document import Copy, Difference, Literal
from pytest_edgehil.model.artifact import Artifact
from pytest_edgehil.onboard import patch
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem

ROWS, COLUMNS, LAYERS = 128, 2048, 6  # 1.5 MiB of int8


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "board")
    home.prepare()
    return home


def weights(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(ROWS, COLUMNS)).astype(np.float32) for _ in range(LAYERS)]


def tuned(arrays: Sequence[np.ndarray], noise: float) -> list[np.ndarray]:
    rng = np.random.default_rng(99)
    return [one + noise * rng.normal(size=one.shape).astype(np.float32) for one in arrays]


def quantised(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Symmetric, per channel."""
    return [np.round(one / (np.abs(one).max(axis=1, keepdims=True) / 127)).astype(np.int8) for one in arrays]


def model(arrays: Sequence[np.ndarray], *, names: str = "layer", note: str = "") -> bytes:
    tensors = [onnx.numpy_helper.from_array(one, f"{names}.{number}") for number, one in enumerate(arrays)]
    graph = onnx.helper.make_graph([], "net", [], [], initializer=tensors)
    made = onnx.helper.make_model(graph, producer_name=f"test{note}")
    return made.SerializeToString()


def packed(directory: Path, data: bytes, **more: bytes) -> Artifact:
    return pack(manifest(), {"model.onnx": data, **more}, directory / hashlib.sha256(data).hexdigest()[:8])


def hold(home: Home, *artifacts: Artifact) -> None:
    for one in artifacts:
        home.bundle(one.digest).write_bytes(one.path.read_bytes())


def made(home: Home, delta: bytes) -> bytes:
    source = io.BytesIO(delta)
    return b"".join(patch.patched(home, patch.read_head(source.read), source.read))


def between(home: Home, new: Artifact, *old: Artifact) -> Delta:
    """A delta, applied: it must make the new bundle."""
    hold(home, *old)
    delta = create(new, old)
    assert delta is not None
    data = b"".join(delta.pieces())
    assert len(data) == delta.size_bytes
    assert made(home, data) == new.path.read_bytes()
    return delta


def test_the_last_layer_alone_is_sent(home: Home, tmp_path: Path) -> None:
    old = quantised(weights())
    new = [*old[:-1], quantised(weights(7))[-1]]
    delta = between(home, packed(tmp_path, model(new)), packed(tmp_path, model(old)))
    assert delta.share < 1.01 / LAYERS


def test_metadata_at_the_front_cost_nearly_nothing(home: Home, tmp_path: Path) -> None:
    arrays = quantised(weights())
    old = packed(tmp_path, model(arrays))
    new = packed(tmp_path, model(arrays, note=" with a longer name of its producer"))
    delta = between(home, new, old)
    assert delta.size_bytes < 5_000  # whatever the model's size


@pytest.mark.parametrize(("noise", "share"), [(0.001, 0.05), (0.01, 0.20)])
def test_fine_tuned_weights_are_sent_as_differences(home: Home, tmp_path: Path, noise: float, share: float) -> None:
    arrays = weights()
    old, new = packed(tmp_path, model(quantised(arrays))), packed(tmp_path, model(quantised(tuned(arrays, noise))))
    delta = between(home, new, old)
    assert delta.share < share
    assert any(isinstance(one, Difference) for one in delta.operations)


def test_renamed_and_reordered_tensors_are_found(home: Home, tmp_path: Path) -> None:
    arrays = weights()
    old = packed(tmp_path, model(quantised(arrays)))
    new = packed(tmp_path, model(quantised(tuned(arrays, 0.001))[::-1], names="block"))
    assert between(home, new, old).share < 0.05


def test_renamed_tensors_are_found_among_any_number_of_the_same_shape(home: Home, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    old = [rng.normal(size=(32, 128)).astype(np.float32) for _ in range(100)]
    new = [tuned(old, 0.001)[number] for number in rng.permutation(100)]
    delta = between(
        home, packed(tmp_path, model(quantised(new), names="renamed")), packed(tmp_path, model(quantised(old)))
    )
    assert delta.share < 0.07


def test_a_tensor_of_another_shape_or_with_more_rows_is_still_the_same(home: Home, tmp_path: Path) -> None:
    old = [*quantised(weights()), np.arange(9, dtype=np.int8)]
    moved = quantised(tuned(weights(), 0.001))
    rows = np.random.default_rng(5).integers(-90, 90, (2, COLUMNS)).astype(np.int8)
    new = [*(one.reshape(COLUMNS, ROWS) for one in moved[:3]), *(np.concatenate([one, rows]) for one in moved[3:])]
    delta = between(home, packed(tmp_path, model(new, names="other")), packed(tmp_path, model(old)))
    assert delta.share < 0.07


def test_classes_more_are_columns_more_where_the_last_matrix_lies_the_other_way(home: Home, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    old = rng.normal(size=(512, 1000)).astype(np.float32)
    new = np.concatenate([tuned([old], 0.001)[0], rng.normal(size=(512, 10)).astype(np.float32)], axis=1)
    scale = np.float32(0.03)
    arrays = [np.round(one / scale).clip(-127, 127).astype(np.int8) for one in (old, new)]
    delta = between(home, packed(tmp_path, model(arrays[1:])), packed(tmp_path, model(arrays[:1])))
    assert delta.share < 0.07  # 1 % is new, and 512 rows have to be told


def test_scales_are_sent_as_differences_too_and_names_cost_nearly_nothing(home: Home, tmp_path: Path) -> None:
    def exported(arrays: Sequence[np.ndarray], names: str) -> Artifact:
        tensors = []
        for number, (one, whole) in enumerate(zip(arrays, quantised(arrays), strict=True)):
            scale = np.abs(one).max(axis=1) / np.float32(127)
            tensors += [
                onnx.numpy_helper.from_array(whole, f"{names}_{number}_quantized"),
                onnx.numpy_helper.from_array(scale, f"{names}_{number}_scale"),
                onnx.numpy_helper.from_array(np.zeros(len(scale), dtype=np.int8), f"{names}_{number}_zero_point"),
                onnx.numpy_helper.from_array(np.round(scale * 1e7).astype(np.int32), f"{names}_{number}_bias"),
            ]
        graph = onnx.helper.make_graph([], "net", [], [], initializer=tensors)
        return packed(tmp_path, onnx.helper.make_model(graph).SerializeToString())

    rng = np.random.default_rng(6)
    arrays = [rng.normal(size=(256, 256)).astype(np.float32) for _ in range(8)]
    moved = tuned(arrays, 0.001)
    assert between(home, exported(moved, "onnx::MatMul"), exported(arrays, "net")).share < 0.047
    assert between(home, exported(arrays, "onnx::MatMul"), exported(arrays, "net")).share < 0.012


def test_an_added_layer_is_sent_and_the_others_are_not(home: Home, tmp_path: Path) -> None:
    arrays = quantised(weights())
    new = [*arrays[:3], quantised(weights(5))[0], *arrays[3:]]
    delta = between(home, packed(tmp_path, model(new)), packed(tmp_path, model(arrays)))
    assert delta.share < 1.01 / (LAYERS + 1)


def test_fp32_differences_are_sent_where_they_are_smaller(home: Home, tmp_path: Path) -> None:
    arrays = weights()[:2]
    delta = between(home, packed(tmp_path, model(tuned(arrays, 0.001))), packed(tmp_path, model(arrays)))
    assert delta.share < 0.7


def test_weights_in_a_file_of_their_own_are_tensors_too(home: Home, tmp_path: Path) -> None:
    def external(arrays: Sequence[np.ndarray], directory: Path) -> Artifact:
        directory.mkdir()
        loaded = onnx.load_from_string(model(arrays))
        onnx.save_model(loaded, directory / "model.onnx", save_as_external_data=True, location="weights.bin")
        files = {name: (directory / name).read_bytes() for name in ("model.onnx", "weights.bin")}
        return pack(manifest(), dict(files), directory / "out")

    arrays = weights()
    old = external(quantised(arrays), tmp_path / "old")
    new = external(quantised(tuned(arrays, 0.001)), tmp_path / "new")
    assert between(home, new, old).share < 0.05


def test_several_sources_are_used_and_unused_ones_are_not_named(home: Home, tmp_path: Path) -> None:
    one, other = quantised(weights(1)), quantised(weights(2))
    first, second, third = (packed(tmp_path, model(arrays)) for arrays in (one, other, quantised(weights(3))))
    new = packed(tmp_path, model([*one[:4], *other[4:]]))
    delta = between(home, new, third, first, second)
    assert delta.share < 0.05
    assert set(delta.head.sources) == {first.digest, second.digest}


def test_without_anything_alike_everything_is_sent(home: Home, tmp_path: Path) -> None:
    old, new = packed(tmp_path, model(quantised(weights(1)))), packed(tmp_path, model(quantised(weights(2))))
    delta = between(home, new, old)
    assert all(not isinstance(one, Difference) for one in delta.operations)
    assert delta.share < 1.01
    assert between(home, packed(tmp_path, b"no onnx at all")).head.sources == ()


def test_a_bundle_that_was_not_packed_by_us_has_no_delta(tmp_path: Path) -> None:
    import dataclasses
    import gzip

    ours = packed(tmp_path, b"weights" * 1000)
    theirs = tmp_path / "theirs.tar.gz"
    theirs.write_bytes(gzip.compress(gzip.decompress(ours.path.read_bytes()), mtime=0))
    digest = f"sha256:{hashlib.sha256(theirs.read_bytes()).hexdigest()}"
    assert create(dataclasses.replace(ours, path=theirs, digest=digest), [ours]) is None


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=4),
    cut=st.integers(0, 60_000),
    inserted=st.integers(0, 3_000),
    seed=st.integers(0, 2**16),
)
def test_any_change_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cut: int, inserted: int, seed: int
) -> None:
    place = tmp_path_factory.mktemp("delta")
    home = Home(place / "board")
    home.prepare()
    rng = np.random.default_rng(seed)
    old = b"".join(rng.integers(0, 256, size, dtype=np.uint8).tobytes() for size in sizes)
    new = old[:cut] + rng.integers(0, 256, inserted, dtype=np.uint8).tobytes() + old[cut + inserted // 2 :]
    between(home, packed(place, new + b"!"), packed(place, old))


# --- hostile ones ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, bytes]:
    place = tmp_path_factory.mktemp("honest")
    arrays = [one[:16] for one in weights()[:2]]
    old = packed(place, model(quantised(arrays)))
    new = packed(place, model([*quantised(tuned(arrays, 0.01)), quantised(weights(5))[0][:8]]))
    delta = create(new, [old])
    assert delta is not None
    kinds = {type(one) for one in delta.operations}
    assert kinds >= {Difference, Literal}
    return old, b"".join(delta.pieces())


def test_a_delta_that_is_cut_off_anywhere_is_refused(honest: tuple[Artifact, bytes], home: Home) -> None:
    old, data = honest
    hold(home, old)
    for length in itertools.chain(range(200), range(200, len(data), 211)):
        with pytest.raises(Problem) as refused:
            made(home, data[:length])
        assert refused.value.code in {"truncated", "corrupt-artifact"}
    with pytest.raises(Problem, match="goes on"):
        made(home, data + b"x")


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_delta_with_any_bytes_changed_is_refused_or_makes_other_bytes(
    honest: tuple[Artifact, bytes], tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]]
) -> None:
    old, data = honest
    home = Home(tmp_path_factory.mktemp("board"))
    home.prepare()
    hold(home, old)
    changed = bytearray(data)
    for at, byte in changes:
        changed[int(at * len(data))] = byte
    source = io.BytesIO(bytes(changed))
    made_bytes = 0
    try:
        head = patch.read_head(source.read)
        for piece in patch.patched(home, head, source.read):
            made_bytes += len(piece)
    except Problem as problem:
        refused = problem
    else:
        refused = None
        assert made_bytes < head.stream_bytes * 1.001 + 64  # never more than it announced
    assert refused is None or "\n" not in refused.message


def test_a_source_that_the_board_lacks_is_named(honest: tuple[Artifact, bytes], home: Home) -> None:
    with pytest.raises(Problem) as refused:
        made(home, honest[1])
    assert refused.value.code == "not-in-store"


def test_a_copy_beyond_the_end_of_its_source_is_refused(honest: tuple[Artifact, bytes], home: Home) -> None:
    from pytest_edgehil.artifacts.delta.document import Head, write

    old, _ = honest
    hold(home, old)
    head = Head(digest=old.digest, size_bytes=100, stream_bytes=100, sources=(old.digest,))
    for start in (old.size_bytes, 2**61):
        with pytest.raises(Problem, match="takes bytes"):
            made(home, b"".join(write(head, [Copy(source=0, start=start, size_bytes=100)])))


def test_a_bomb_is_refused_before_it_is_inflated(home: Home) -> None:
    import bz2

    from pytest_edgehil.artifacts.delta.coding import Code
    from pytest_edgehil.artifacts.delta.document import Head, block, header

    bomb = bz2.compress(bytes(2**26))
    head = Head(digest=f"sha256:{'0' * 64}", size_bytes=2**26, stream_bytes=2**26, sources=())
    for announced, said in ((2**20, "holds"), (2**26, "has a stream")):
        with pytest.raises(Problem, match=said):
            made(home, header(head) + block([(0, Code.BZ2, announced, bomb)]))


def test_what_becomes_of_each_file_adds_up(home: Home, tmp_path: Path) -> None:
    arrays = weights()[:2]
    old = packed(tmp_path, model(quantised(arrays)), kept=b"k" * 9000)
    new = packed(tmp_path, model(quantised(tuned(arrays, 0.001))), kept=b"k" * 9000, added=bytes(range(256)) * 9)
    files = {one.path: one for one in between(home, new, old).files}
    assert set(files) == {"manifest.json", "model.onnx", "kept", "added"}
    for one in files.values():
        assert one.copied_bytes + one.near_bytes + one.new_bytes == one.size_bytes
    assert files["kept"].copied_bytes == 9000
    assert files["added"].new_bytes == files["added"].size_bytes
    assert files["model.onnx"].near_bytes > 0.9 * files["model.onnx"].size_bytes

"""Quantising: right, reproducible, and what cannot be done is said."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.onnx_models import classifier

from pytest_edgehil.artifacts.calibrate import tensor_ranges
from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.artifacts.quantise import Quantisation, canonical, quantise
from pytest_edgehil.artifacts.reference import OnnxSession
from pytest_edgehil.errors import ModelError, RecipeError

IMAGES = np.random.default_rng(3).random((40, 1, 8, 8), dtype=np.float32)
ITEMS = Dataset.of_arrays("items", {"image": IMAGES})
STATIC = Quantisation(method="static")
DYNAMIC = Quantisation(method="dynamic", weights="uint8", per_channel=False)


def kinds(data: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(data).graph.node}


def test_static_quantisation_keeps_the_outputs_close() -> None:
    before = OnnxSession(classifier(), label="a").evaluate(ITEMS.inputs)["logits"]
    after = OnnxSession(quantise(classifier(), STATIC, calibration=ITEMS), label="b").evaluate(ITEMS.inputs)["logits"]
    spread = before.max() - before.min()
    assert np.abs(after - before).max() < 0.05 * spread
    assert not np.array_equal(after, before)


def test_static_quantisation_is_in_qdq_form_with_int8_weights_per_channel() -> None:
    data = quantise(classifier(), STATIC, calibration=ITEMS)
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds(data)
    weights = {one.name: one for one in onnx.load_model_from_string(data).graph.initializer}
    assert weights["w_quantized"].data_type == onnx.TensorProto.INT8
    assert list(weights["w_scale"].dims) == [8]
    per_tensor = quantise(classifier(), Quantisation(method="static", per_channel=False), calibration=ITEMS)
    assert (
        list({one.name: one for one in onnx.load_model_from_string(per_tensor).graph.initializer}["w_scale"].dims) == []
    )


def test_dynamic_quantisation_needs_no_items() -> None:
    data = quantise(classifier(), DYNAMIC)
    assert "ConvInteger" in kinds(data)
    assert OnnxSession(data, label="x").run({"image": IMAGES[:1]})["logits"].shape == (1, 3)


def test_only_the_named_operators_are_quantised_and_excluded_nodes_are_not() -> None:
    only = quantise(classifier(), Quantisation(method="static", operators=("Gemm",)), calibration=ITEMS)
    names = {one.name for one in onnx.load_model_from_string(only).graph.initializer}
    assert "w" in names
    assert "v_quantized" in names
    without = quantise(classifier(), Quantisation(method="static", exclude=("conv",)), calibration=ITEMS)
    names = {one.name for one in onnx.load_model_from_string(without).graph.initializer}
    assert "w" in names
    assert "v_quantized" in names


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            Quantisation(method="static", operators=("Cnov",)),
            "operators: the model has no 'Cnov'; it has AveragePool, ",
        ),
        (Quantisation(method="static", exclude=("cnov",)), "exclude: the model has no node 'cnov'"),
    ],
)
def test_a_name_that_the_model_does_not_have_is_refused(how: Quantisation, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        quantise(classifier(), how, calibration=ITEMS)
    assert said in str(caught.value)


def test_static_quantisation_without_items_is_refused() -> None:
    with pytest.raises(RecipeError, match="needs a calibration set"):
        quantise(classifier(), STATIC)


@pytest.mark.parametrize("data", [b"junk", b"", classifier()[:-50]])
def test_a_source_that_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match="no valid ONNX model"):
        quantise(data, DYNAMIC)


def test_items_of_another_model_are_refused() -> None:
    with pytest.raises(ModelError, match="was fed"):
        quantise(classifier(), STATIC, calibration=Dataset.of_arrays("x", {"image": np.zeros((2, 3), np.float32)}))


def test_the_quantiser_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        quantise(classifier(), STATIC, calibration=ITEMS)
        quantise(classifier(), DYNAMIC)
    assert caplog.records == []


@pytest.mark.parametrize("how", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_another_process_with_other_hash_seeds_makes_the_same_bytes(tmp_path: Path, how: Quantisation) -> None:
    (tmp_path / "model.onnx").write_bytes(classifier())
    np.save(tmp_path / "items.npy", IMAGES)
    program = (
        "import hashlib, sys, numpy as np; from pathlib import Path\n"
        "from pytest_edgehil.artifacts.quantise import Quantisation, quantise\n"
        "from pytest_edgehil.artifacts.dataset import Dataset\n"
        "items = Dataset.of_arrays('items', {'image': np.load('items.npy')})\n"
        f"data = quantise(Path('model.onnx').read_bytes(), {how!r}, calibration=items)\n"
        "print(hashlib.sha256(data).hexdigest())\n"
    )
    digests = {hashlib.sha256(quantise(classifier(), how, calibration=ITEMS)).hexdigest()}
    for seed, language in (("1", "C"), ("2", "de_DE.UTF-8")):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "LANG": language,
            "HOME": str(tmp_path),
            "TZ": "Asia/Tokyo",
        }
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        digests.add(ran.stdout.strip())
    assert len(digests) == 1


def test_the_order_of_nodes_and_weights_in_a_model_does_not_change_its_canonical_bytes() -> None:
    model = onnx.load_model_from_string(classifier())
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    weights = list(shuffled.graph.initializer)[::-1]
    del shuffled.graph.initializer[:]
    shuffled.graph.initializer.extend(weights)
    nodes = list(shuffled.graph.node)[::-1]
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    shuffled.producer_name = "somebody"
    shuffled.metadata_props.add(key="made", value="yesterday")
    assert canonical(shuffled) == canonical(model)
    onnx.checker.check_model(onnx.load_model_from_string(canonical(shuffled)))


def shaped(data: bytes) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data))


def test_ranges_hold_every_value_of_every_tensor() -> None:
    ranges = tensor_ranges(shaped(classifier()), ITEMS)
    assert set(ranges) == {"image", "c", "r", "p", "f", "logits"}
    low, high = ranges["image"]
    assert low <= IMAGES.min()
    assert high >= IMAGES.max()
    assert high <= IMAGES.max() * 1.01
    assert ranges["r"][0] == 0.0


def test_a_rounding_error_of_another_machine_does_not_change_the_ranges() -> None:
    """A float32 sum differs in its last bits between CPUs; here the whole input is off by as much."""
    nudged = Dataset.of_arrays("items", {"image": np.nextafter(IMAGES, np.float32(0.5))})
    one, two = (tensor_ranges(shaped(classifier()), items) for items in (ITEMS, nudged))
    assert one == two


def test_a_percentile_leaves_out_outliers() -> None:
    images = IMAGES.copy()
    images[0, 0, 0, 0] = 100.0
    items = Dataset.of_arrays("items", {"image": images})
    assert tensor_ranges(shaped(classifier()), items)["image"][1] >= 100
    assert tensor_ranges(shaped(classifier()), items, percentile=99.9)["image"][1] < 2


def test_constant_items_have_a_range_too() -> None:
    flat = Dataset.of_arrays("flat", {"image": np.zeros((3, 1, 8, 8), dtype=np.float32)})
    assert tensor_ranges(shaped(classifier()), flat)["image"] == (0.0, 0.0)
    tensor_ranges(shaped(classifier()), flat, percentile=99.0)
    quantise(classifier(), STATIC, calibration=flat)


# --- narrower weights --------------------------------------------------------------------------------


def products(*, size: int = 64) -> bytes:
    """x (1, 64) → y (1, 8) by two MatMuls with constant matrices."""
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array((rng.normal(size=shape) / 8).astype(np.float32), name)
        for name, shape in (("w1", (size, size)), ("w2", (size, 8)))
    ]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
            onnx.helper.make_node("Relu", ["h"], ["r"], name="relu"),
            onnx.helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
        ],
        "products",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, size])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 8])],
        weights,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


X = np.random.default_rng(5).normal(size=(1, 64)).astype(np.float32)


def answer(data: bytes) -> np.ndarray:
    return OnnxSession(data, label="x").run({"x": X})["y"]


@pytest.mark.parametrize(
    ("how", "error", "share"),
    [
        (Quantisation(method="fp16"), 0.005, 0.6),
        (Quantisation(method="int4"), 0.25, 0.3),
        (Quantisation(method="int4", symmetric=False, block_size=16), 0.2, 0.35),
    ],
)
def test_narrow_weights_are_smaller_and_close(how: Quantisation, error: float, share: float) -> None:
    source = products()
    made = quantise(source, how)
    off = np.sqrt(np.mean((answer(made) - answer(source)) ** 2) / np.mean(answer(source) ** 2))
    assert 0 < off < error
    assert len(made) < share * len(source)
    assert made == quantise(source, how)


def test_int4_uses_the_operator_of_onnx_runtime_and_spares_what_is_excluded() -> None:
    assert kinds(quantise(products(), Quantisation(method="int4"))) == {"MatMulNBits", "Relu"}
    assert kinds(quantise(products(), Quantisation(method="int4", exclude=("first",)))) == {
        "MatMulNBits", "MatMul", "Relu"
    }  # fmt: skip


def test_int4_of_a_model_without_products_says_so() -> None:
    with pytest.raises(ModelError, match="no MatMul with a constant matrix"):
        quantise(classifier(), Quantisation(method="int4"))


def test_half_precision_keeps_inputs_outputs_and_excluded_operators() -> None:
    made = onnx.load_model_from_string(quantise(products(), Quantisation(method="fp16", exclude_operators=("MatMul",))))
    kept = {one.name: one.data_type for one in made.graph.initializer}
    assert set(kept.values()) == {onnx.TensorProto.FLOAT}
    whole = onnx.load_model_from_string(quantise(products(), Quantisation(method="fp16")))
    assert {one.data_type for one in whole.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert answer(whole.SerializeToString()).dtype == np.float32


def test_excluded_types_of_operators_are_not_quantised() -> None:
    how = Quantisation(method="static", exclude_operators=("Conv",))
    made = quantise(classifier(), how, calibration=ITEMS)
    weights = {one.name for one in onnx.load_model_from_string(made).graph.initializer}
    assert "w" in weights
    assert "v_quantized" in weights
    with pytest.raises(RecipeError, match=r"exclude_operators: the model has no 'Cnov'; it has"):
        quantise(classifier(), Quantisation(method="static", exclude_operators=("Cnov",)), calibration=ITEMS)


def test_optimising_gives_the_same_answers_from_fewer_operators() -> None:
    made = quantise(classifier(), Quantisation(method="none", optimise=True))
    before = OnnxSession(classifier(), label="a").evaluate(ITEMS.inputs)["logits"]
    after = OnnxSession(made, label="b").evaluate(ITEMS.inputs)["logits"]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert len(onnx.load_model_from_string(made).graph.node) <= 5
    assert made == quantise(classifier(), Quantisation(method="none", optimise=True))


def residual() -> bytes:
    """A convolution, and the way around it: image (1, 4, 6, 6) → out, of the same shape."""
    rng = np.random.default_rng(5)
    weights = [
        onnx.numpy_helper.from_array((0.3 * rng.standard_normal((4, 4, 3, 3))).astype(np.float32), f"w{number}")
        for number in range(2)
    ]
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["a"], ["b"], name="relu"),
        onnx.helper.make_node("Conv", ["b", "w1"], ["c"], name="second", pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Add", ["b", "c"], ["d"], name="around"),
        onnx.helper.make_node("Relu", ["d"], ["out"], name="last"),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, 6, 6]) for name in ("image", "out")]
    graph = onnx.helper.make_graph(nodes, "residual", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def fused(data: bytes, path: Path) -> set[str]:
    """Types of operators after ONNX Runtime has put them together as it does when it runs a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return kinds(path.read_bytes())


def test_a_bit_exact_model_sums_in_floating_point_and_is_integer_everywhere_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    items = Dataset.of_arrays("items", {"image": rng.random((30, 4, 6, 6), dtype=np.float32)})
    plain, exact = (
        quantise(residual(), Quantisation(method="static", bit_exact=exact), calibration=items)
        for exact in (False, True)
    )
    # QLinearAdd is the one integer kernel that rounds otherwise on Arm
    assert {"QLinearConv", "QLinearAdd"} <= fused(plain, tmp_path / "plain.onnx")
    found = fused(exact, tmp_path / "exact.onnx")
    assert {"QLinearConv", "Sum"} <= found
    assert "QLinearAdd" not in found
    feeds = {"image": items.inputs["image"][:1]}
    answers = [OnnxSession(data, label="m").run(feeds)["out"] for data in (plain, exact, residual())]
    assert np.abs(answers[1] - answers[2]).max() < 0.05 * np.abs(answers[2]).max()
    assert np.abs(answers[0] - answers[1]).max() < 0.05 * np.abs(answers[2]).max()

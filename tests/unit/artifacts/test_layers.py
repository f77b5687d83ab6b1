"""What a build says of its operators and layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.onnx_models import classifier

from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.artifacts.footprint import peak_bytes
from pytest_edgehil.artifacts.layers import largest_errors, operators
from pytest_edgehil.artifacts.quantise import Quantisation, prepared, quantise
from pytest_edgehil.errors import ModelError

IMAGES = np.random.default_rng(3).random((20, 1, 8, 8), dtype=np.float32)
ITEMS = Dataset.of_arrays("items", {"image": IMAGES})


def told(how: Quantisation, source: bytes | None = None) -> dict[str, tuple[int, int]]:
    source = classifier() if source is None else source
    made = quantise(source, how, calibration=ITEMS)
    return {one.kind: (one.quantised, one.total) for one in operators(prepared(source, how), made)}


def renamed(*names: str) -> bytes:
    model = onnx.load_model_from_string(classifier())
    for node, name in zip(model.graph.node, [*names, *[""] * len(model.graph.node)], strict=False):
        node.name = name
    return bytes(model.SerializeToString())


def test_every_quantised_operator_is_counted() -> None:
    assert told(Quantisation(method="static")) == {
        "Conv": (1, 1), "Relu": (1, 1), "AveragePool": (1, 1), "Flatten": (1, 1), "Gemm": (1, 1)
    }  # fmt: skip


@pytest.mark.parametrize(
    "how",
    [
        Quantisation(method="static", exclude=("conv",)),
        Quantisation(method="dynamic", weights="uint8", per_channel=False, exclude=("conv",)),
        Quantisation(method="fp16", exclude_operators=("Conv",)),
    ],
)
def test_what_stays_float_is_counted_as_that(how: Quantisation) -> None:
    found = told(how)
    assert found["Conv"] == (0, 1)
    assert found["Gemm"] == (1, 1)


METHODS = [
    Quantisation(method="static"),
    Quantisation(method="static", exclude_operators=("Gemm",)),
    Quantisation(method="dynamic", weights="uint8", per_channel=False),
    Quantisation(method="dynamic", weights="uint8", per_channel=False, exclude_operators=("Conv",)),
    Quantisation(method="fp16", exclude_operators=("Conv",)),
    Quantisation(method="static", optimise=True),
]


@pytest.mark.parametrize("names", [(), ("Gemm_0",)])
@pytest.mark.parametrize("how", METHODS, ids=lambda how: f"{how.method}-{how.exclude_operators}-{how.optimise}")
def test_nodes_without_names_are_quantised_and_counted_alike(how: Quantisation, names: tuple[str, ...]) -> None:
    assert told(how, renamed(*names)) == told(how)


def test_a_node_that_had_no_name_can_be_excluded_by_its_type_and_place() -> None:
    assert told(Quantisation(method="static", exclude=("Conv_0",)), renamed())["Conv"] == (0, 1)


def test_the_layer_that_was_spoiled_is_the_worst() -> None:
    source = classifier()
    made = quantise(source, Quantisation(method="static"), calibration=ITEMS)
    fine = largest_errors(source, made, ITEMS.inputs)
    assert all(one.error < 0.1 for one in fine)
    dim = Dataset.of_arrays("dim", {"image": IMAGES / 100})
    spoiled = largest_errors(source, quantise(source, Quantisation(method="static"), calibration=dim), ITEMS.inputs)
    assert spoiled[0].error > 0.5
    assert spoiled[0].error >= spoiled[-1].error


def test_the_same_model_has_no_error() -> None:
    assert all(one.error == 0 for one in largest_errors(classifier(), classifier(), ITEMS.inputs))


def test_memory_is_that_of_a_process_of_its_own() -> None:
    small = peak_bytes(classifier(), {"image": IMAGES[:1]})
    large = peak_bytes(classifier(channels=4096), {"image": IMAGES[:1]})
    assert small is not None
    assert large is not None
    assert large > small
    with pytest.raises(ModelError, match="in a process of its own"):
        peak_bytes(b"no model", {"image": IMAGES[:1]})

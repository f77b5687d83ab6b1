"""The small language model of the suites is what its README says it is."""

from pathlib import Path

import numpy as np
import pytest

from pytest_edgehil.artifacts.reference import OnnxSession

NOTES = Path(__file__).parents[3] / "suites" / "models" / "notes"


@pytest.fixture(scope="module")
def model():
    return OnnxSession((NOTES / "notes-fp32.onnx").read_bytes(), label="notes-fp32")


@pytest.fixture(scope="module")
def prompts():
    with np.load(NOTES / "heldout.npz") as file:
        return file["ids"]


def test_held_out_prompts_are_new_to_calibration_and_enough_for_a_bootstrap(prompts):
    with np.load(NOTES / "calibration.npz") as file:
        calibration = file["ids"]
    assert prompts.shape[0] >= 150
    assert not {one.tobytes() for one in prompts} & {one.tobytes() for one in calibration}
    assert len({one.tobytes() for one in prompts}) == prompts.shape[0]


def test_takes_any_number_of_tokens_and_never_looks_ahead(model, prompts):
    whole = model.run({"ids": prompts[:1]})["logits"]
    assert whole.shape == (1, prompts.shape[1], 43)
    for tokens in (1, 7, 20):
        begun = model.run({"ids": prompts[:1, :tokens]})["logits"]
        np.testing.assert_allclose(begun, whole[:, :tokens], atol=1e-4)


def test_is_far_better_than_guessing(model, prompts):
    logits = model.evaluate({"ids": prompts[:60]})["logits"].astype(np.float64)
    p = np.exp(logits[:, :-1] - np.log(np.exp(logits[:, :-1]).sum(axis=-1, keepdims=True)))
    true = np.take_along_axis(p, prompts[:60, 1:, None], axis=-1)
    assert float(np.exp(-np.log(true).mean())) < 1.4


def test_is_small():
    assert (NOTES / "notes-fp32.onnx").stat().st_size < 500_000

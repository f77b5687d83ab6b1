"""The same bundle on the board and on this host: what comes out must be the same, as far as arithmetic allows.

On an emulated board, as on a Pi, the board computes with Arm's instructions and the host with its own::

    pytest --edgehil-lab farm/emulated.yaml suites/parity

Node by node, ONNX Runtime gives the same bits on either. What it fuses sums and rounds in another order: floats differ
in the last digits, and an integer that lies between two steps may fall to the other one.
"""

import numpy as np
import pytest

INTEGERS = [pytest.param("digits-int8", id="static-int8")]
FLOATS = [pytest.param("digits-fp32", id="fp32"), pytest.param("digits-int8-dynamic", id="dynamic-int8")]
ITEMS = 4  # an emulated board takes about a second for one of fp32


def both(dut, on_host, images):
    """Logits of the first items, (m, 10), there and here."""
    feeds = [{"image": images[index : index + 1]} for index in range(ITEMS)]
    return (np.concatenate([side.run(one)["logits"] for one in feeds]) for side in (dut, on_host))


@pytest.mark.parametrize("combo", INTEGERS, indirect=True)
def test_integers_are_at_most_a_step_apart(combo, dut, on_host, heldout):
    there, here = both(dut, on_host, heldout("digits").inputs["image"])
    step = np.min(np.diff(np.unique(here.round(4))))  # the outputs are multiples of one scale
    assert np.max(np.abs(there - here)) <= 1.01 * step
    np.testing.assert_array_equal(there.argmax(axis=1), here.argmax(axis=1))


@pytest.mark.parametrize("combo", FLOATS, indirect=True)
def test_floats_are_as_good_as_the_same(combo, dut, on_host, heldout):
    there, here = both(dut, on_host, heldout("digits").inputs["image"])
    np.testing.assert_allclose(there, here, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(there.argmax(axis=1), here.argmax(axis=1))

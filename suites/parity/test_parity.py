"""The same bundle on the board and on this host: what comes out must be the same, to the last bit where it is integers.

On an emulated board, as on a Pi, the board computes with Arm's instructions and the host with its own::

    pytest --edgehil-lab farm/emulated.yaml suites/parity

Integer arithmetic is the same everywhere, with one exception, which recipes with ``bit_exact: true`` avoid. Floats are
summed in another order, so they differ in the last digits; so do the ranges that dynamic quantisation takes from them.
"""

import numpy as np
import pytest

INTEGERS = [
    pytest.param("digits-int8", id="cnn-per-channel"),
    pytest.param("digits-per-tensor-int8", id="cnn-per-tensor"),
    pytest.param("digits-mlp-int8", id="mlp-per-channel"),
    pytest.param("digits-mlp-per-tensor-int8", id="mlp-per-tensor"),
]
FLOATS = [pytest.param("digits-fp32", id="fp32"), pytest.param("digits-int8-dynamic", id="dynamic-int8")]
ITEMS = 2  # an emulated board takes more than a second for one of fp32: 177 million products of floats


def both(dut, on_host, images):
    """Logits of the first items, (m, 10), there and here."""
    feeds = [{"image": images[index : index + 1]} for index in range(ITEMS)]
    return (np.concatenate([side.run(one)["logits"] for one in feeds]) for side in (dut, on_host))


@pytest.mark.parametrize("combo", INTEGERS, indirect=True)
def test_integers_are_the_same_bits(combo, dut, on_host, heldout):
    there, here = both(dut, on_host, heldout("digits").inputs["image"])
    assert len(np.unique(here, axis=0)) == ITEMS  # it does tell one item from another
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("combo", FLOATS, indirect=True)
def test_floats_are_as_good_as_the_same(combo, dut, on_host, heldout):
    there, here = both(dut, on_host, heldout("digits").inputs["image"])
    np.testing.assert_allclose(there, here, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(there.argmax(axis=1), here.argmax(axis=1))

"""The gates that a digits model must pass before it may be released.

Which model is on the command line, so that the same suite judges every build of it::

    pytest -n auto --edgehil-lab=farm/virtual.yaml --edgehil-model digits-int8 suites/gates
"""

import numpy as np
import pytest

BOARD_CLASSES = [pytest.param(cls, marks=pytest.mark.board(cls), id=cls) for cls in ("pi5-8gb-hat2", "pi5-4gb")]


@pytest.mark.parametrize("board_class", BOARD_CLASSES)
@pytest.mark.combo(firmware="edge-os-2026.11")
@pytest.mark.accuracy(agreement=0.98, baseline="digits-fp32")
@pytest.mark.p95_latency("250 ms", max_samples=4000)  # much: its host may stall a virtual board for 100 ms
@pytest.mark.peak_rss("256 MiB")
@pytest.mark.size("2 MiB")
def test_digits(board_class, dut, heldout):
    dut.evaluate(heldout("digits"))


@pytest.mark.cold_start("20 s", starts=3)
def test_starts_quickly(dut, heldout):
    dut.run({"image": heldout("digits").inputs["image"][:1]})


def test_logits_stay_close(dut, baseline, heldout):
    """An ordinary parity test: what the board answers is what the host answers, up to quantisation."""
    images = heldout("digits").inputs["image"]
    for index in range(20):
        feeds = {"image": images[index : index + 1]}
        on_board, on_host = dut.run(feeds)["logits"], baseline.run(feeds)["logits"]
        cosine = float(np.sum(on_board * on_host) / (np.linalg.norm(on_board) * np.linalg.norm(on_host)))
        assert cosine > 0.98, f"item {index}: cosine similarity of the logits is {cosine:.3f}"


@pytest.mark.soak("1 h", peak_rss="256 MiB")
@pytest.mark.thermal(throttling=False)
def test_soak(dut, heldout):
    """Repeated for an hour, or for as long as --edgehil-soak says; then the evidence states that."""
    dut.evaluate(heldout("digits"))

"""What a digits model must fulfil on any board, also one that counts instructions: no gate is in seconds.

On such a board (``timing: icount``) the comparison of medians is the same however busy the host is::

    pytest --edgehil-lab farm/emulated.yaml --edgehil-timing icount --edgehil-model digits-int8 suites/relative
"""

import pytest


@pytest.mark.accuracy(agreement=0.9, baseline="digits-fp32")
@pytest.mark.quantile_latency(0.5, baseline="digits-fp32", ratio=0.9, pairs=6, block=10)
@pytest.mark.peak_rss("256 MiB")
@pytest.mark.size("2 MiB")
def test_right_small_and_faster_than_fp32(dut, heldout):
    dut.evaluate(heldout("digits"), items=30)

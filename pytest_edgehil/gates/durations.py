"""Durations that were measured: whether they can be any, and which quantile they show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_edgehil.model.quantity import format_duration
from pytest_edgehil.model.requirement import Timing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def no_measurement(latencies: npt.NDArray[np.int64], *, timing: Timing = Timing.WALL) -> str | None:
    """Why these numbers cannot be durations; None when they can.

    Args:
        timing: what they are; the same work may take the same number of instructions again and again, but not the same
            time.
    """
    import numpy as np

    if not np.isfinite(latencies).all():
        return f"{int((~np.isfinite(latencies)).sum())} durations are no finite numbers"
    if (latencies <= 0).any():
        return f"{int((latencies <= 0).sum())} latencies are zero or negative: the clock did not tick or went backwards"
    if timing is Timing.WALL and latencies.shape[0] >= 30 and (latencies == latencies[0]).all():
        return (
            f"all {latencies.shape[0]} latencies are exactly {in_ms(float(latencies[0]))}: "
            f"a clock that does not tick is no measurement"
        )
    return None


def observed_quantile(latencies: npt.NDArray[np.int64], quantile: float) -> float:
    """The observed quantile: the smallest latency that at least this share of all does not exceed."""
    import numpy as np

    # numpy's "inverted_cdf" without its overhead, which is longer than the rest of a look
    index = max(0, math.ceil(latencies.shape[0] * quantile - 1.0))
    return float(np.partition(latencies, index)[index])


def in_ms(ns: float) -> str:
    """With four digits, as verdicts on durations tell them."""
    return format_duration(ns, digits=4)

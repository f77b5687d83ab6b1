"""The markers' signatures as pytest shows them, apart from the gates: every pytest run registers the markers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_TEXTS = {
    "accuracy": (
        "*, agreement=None, drop=None, at_least=None, baseline=None, alpha=None",
        (
            "the model must agree with a baseline (agreement=0.98), be right (at_least=0.95), or lose little "
            "accuracy (drop=0.01)."
        ),
    ),
    "cosine_similarity": (
        "least, *, share=0.95, baseline=None, alpha=None",
        "the outputs must point the same way as a baseline's: a cosine of at least 0.99, say, on a share of the items.",
    ),
    "token_kl": (
        "budget, *, baseline=None, alpha=None",
        "a language model must stay close to a baseline: a mean divergence per token of at most '0.02 nats', say.",
    ),
    "perplexity_ratio": (
        "ratio, *, baseline=None, alpha=None",
        "a language model must not find text more surprising than a baseline does: at most 1.02 times, say.",
    ),
    "p95_latency": (
        (
            "budget=None, *, baseline=None, golden=None, ratio=None, pairs=20, block=50, session_spread=None, "
            "across=(), alpha=None, max_samples=None, max_duration='10 min', min_duration=None, max_drift=None, "
            "rate=None, stall=None"
        ),
        (
            "the 95th percentile of the latency must be within a budget such as '12 ms', or at most ratio=1.10 times "
            "that of a baseline='digits-fp32' on the same board, or of a golden='goldens/digits.json'; "
            "rate='20/s' asks it of response times at that rate."
        ),
    ),
    "quantile_latency": (
        (
            "q, budget=None, *, baseline=None, golden=None, ratio=None, pairs=20, block=50, session_spread=None, "
            "across=(), alpha=None, max_samples=None, max_duration='10 min', min_duration=None, max_drift=None, "
            "rate=None, stall=None"
        ),
        "the same for another quantile of the latency, such as q=0.99.",
    ),
    "peak_rss": (
        "budget, *, of='process'",
        (
            "the model's process must never hold more memory than a budget such as '180 MiB'; of='model' leaves out "
            "what the process held before it loaded the model."
        ),
    ),
    "thermal": (
        "max=None, *, throttling=False, duration='10 min', settle='60 s', alpha=None",
        "the board must settle below a temperature such as '80 C' under this model, and must not throttle.",
    ),
    "soak": (
        (
            "duration, *, leak=None, drift=None, drift_of='median', crash_rate=None, crash_trial='10 s', "
            "peak_rss=None, full=False, alpha=None"
        ),
        (
            "the model must run for a duration such as '1 h' without crashing, growing (leak='5 MiB/h'), "
            "getting slower (drift='10 %') or holding too much memory (peak_rss='180 MiB'); full=True never passes "
            "before the end."
        ),
    ),
    "size": (
        "budget",
        "the model's bundle must not be larger than a budget such as '2 MiB'.",
    ),
    "throughput": (
        "at_least, *, alpha=None, max_samples=1000, max_duration='10 min'",
        "the model must do at least so many inferences a second, such as '80/s', one after the other.",
    ),
    "tokens_per_second": (
        "at_least, *, alpha=None, max_samples=160, max_duration='30 min'",
        "a language model must produce at least so many tokens a second, such as '12/s', after the first one.",
    ),
    "time_to_first_token": (
        "budget, *, q=0.95, alpha=None, max_samples=300, max_duration='30 min', min_duration=None",
        "a quantile of the time to a generation's first token must be within a budget such as '300 ms'.",
    ),
    "npu_utilisation": (
        "*, at_least=None, max=None, alpha=None, max_duration='5 min'",
        "the accelerator must be busy for a share of the time, such as at_least=0.6, while the model infers.",
    ),
    "energy": (
        "budget, *, alpha=None, max_duration='5 min'",
        "an inference must not take more energy than a budget such as '50 mJ', by the board's own meter.",
    ),
    "cold_start": (
        "budget, *, starts=3",
        "the model must load within a budget such as '2 s' in every one of several fresh processes.",
    ),
}

TAKES: Mapping[str, str] = MappingProxyType({name: takes for name, (takes, _) in _TEXTS.items()})
"""Gate's name → what its marker takes."""

SIGNATURES: Mapping[str, str] = MappingProxyType(
    {name: f"{name}({takes}): {summary}" for name, (takes, summary) in _TEXTS.items()}
)
"""Marker name → the line that pytest's ``--markers`` shows."""

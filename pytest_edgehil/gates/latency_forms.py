"""What `p95_latency` and `quantile_latency` may be held against: a budget, a baseline on the same board, or a golden.

One marker, three gates: which one it is says the argument that is given, and recorded arguments are told apart the
same way.
"""

from __future__ import annotations

from typing import Any

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import against_baseline, against_golden, arguments, latency
from pytest_edgehil.gates.against_baseline import BLOCK, PAIRS, AgainstBaseline
from pytest_edgehil.gates.against_golden import AgainstGolden
from pytest_edgehil.gates.gate import Gate, GateSettings


def declare_p95(  # noqa: D103 - the marker's signature; registry.SIGNATURES documents it
    budget: object = None,
    *,
    baseline: object = None,
    golden: object = None,
    ratio: object = None,
    pairs: object = PAIRS,
    block: object = BLOCK,
    session_spread: object = None,
    across: object = (),
    alpha: object = None,
    max_samples: object = None,
    max_duration: object = "10 min",
    min_duration: object = None,
    max_drift: object = None,
    rate: object = None,
    stall: object = None,
    settings: GateSettings,
) -> Gate:
    return declare_quantile(
        0.95,
        budget,
        baseline=baseline,
        golden=golden,
        ratio=ratio,
        pairs=pairs,
        block=block,
        session_spread=session_spread,
        across=across,
        alpha=alpha,
        max_samples=max_samples,
        max_duration=max_duration,
        min_duration=min_duration,
        max_drift=max_drift,
        rate=rate,
        stall=stall,
        settings=settings,
        name="p95_latency",
    )


def declare_quantile(  # noqa: D103 - see above
    q: object,
    budget: object = None,
    *,
    baseline: object = None,
    golden: object = None,
    ratio: object = None,
    pairs: object = PAIRS,
    block: object = BLOCK,
    session_spread: object = None,
    across: object = (),
    alpha: object = None,
    max_samples: object = None,
    max_duration: object = "10 min",
    min_duration: object = None,
    max_drift: object = None,
    rate: object = None,
    stall: object = None,
    settings: GateSettings,
    name: str = "quantile_latency",
) -> Gate:
    _one_of(budget=budget, baseline=baseline, golden=golden)
    of_golden = {"session_spread": (session_spread, None), "across": (across, ())}
    of_pairs = {"pairs": (pairs, PAIRS)}
    of_loop = {"min_duration": (min_duration, None), "rate": (rate, None), "stall": (stall, None)}
    if baseline is not None:
        _refuse("baseline", max_samples=(max_samples, None), **of_loop, **of_golden)
        return against_baseline.declare(
            name,
            arguments.quantile(q),
            baseline=baseline,
            ratio=ratio,
            alpha=alpha,
            pairs=pairs,
            block=block,
            max_duration=max_duration,
            max_drift=max_drift,
            settings=settings,
        )
    if golden is not None:
        _refuse("golden", **of_pairs, **of_loop)
        return against_golden.declare(
            name,
            arguments.quantile(q),
            golden=golden,
            ratio=ratio,
            session_spread=session_spread,
            across=across,
            alpha=alpha,
            max_samples=latency.MAX_SAMPLES if max_samples is None else max_samples,
            block=block,
            max_duration=max_duration,
            max_drift=max_drift,
            settings=settings,
        )
    _refuse("budget", ratio=(ratio, None), block=(block, BLOCK), **of_pairs, **of_golden)
    return latency.declare_quantile(
        q,
        budget,
        alpha=alpha,
        max_samples=max_samples,
        max_duration=max_duration,
        min_duration=min_duration,
        max_drift=max_drift,
        rate=rate,
        stall=stall,
        settings=settings,
        name=name,
    )


def restore(name: str, **recorded: Any) -> Gate:
    """The gate whose `Gate.arguments` these are."""
    if "golden" in recorded:
        return AgainstGolden(name=name, **{**recorded, "across": tuple(recorded["across"])})
    if "baseline" in recorded:
        return AgainstBaseline(name=name, **recorded)
    return latency.restore(name, **recorded)


def _one_of(**given: object) -> None:
    """Exactly one of these must be there."""
    named = [name for name, value in given.items() if value is not None]
    if not named:
        raise MarkerError(f"missing what to hold it against: pass one of {', '.join(given)}")
    if len(named) > 1:
        raise MarkerError(f"{' and '.join(named)} are given, but only one of them can be held against; remove one")


def _refuse(form: str, **given: tuple[object, object]) -> None:
    """Arguments that mean nothing in this form; given as (value, default)."""
    for name, (value, default) in given.items():
        if value != default:
            raise MarkerError(f"{name} means nothing with {form}; remove it{_INSTEAD.get((form, name), '')}")


_INSTEAD = {
    ("baseline", "max_samples"): ": pairs and block say how much is measured",
    ("golden", "pairs"): ": max_samples and block say how much is measured",
}

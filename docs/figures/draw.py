"""The figures of docs/explanation/statistics.md: ``python docs/figures/draw.py DIRECTORY``.

Simulated from fixed seeds, drawn by the very code that draws a run's plots; the docs' build makes them anew each time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.registry import parse
from pytest_edgehil.gates.stats.binomial import clopper_pearson
from pytest_edgehil.gates.stats.block_ratio import jackknife_error, log_quantile
from pytest_edgehil.gates.stats.cluster_bootstrap import cluster_mean
from pytest_edgehil.gates.stats.mean import UNSEEN_STALL, look, looks
from pytest_edgehil.model.sample import Conditions, Sample, SensorReading
from pytest_edgehil.model.series import BlockPair, Paired
from pytest_edgehil.reporting.plots import canvas, registry

FloatArray = npt.NDArray[np.float64]
MS = 1_000_000
TRUE_P95_MS = 11.597
"""Of `latencies_ms`, whatever its correlation."""


def latencies_ms(rng: np.random.Generator, n: int, *, rho: float = 0.5) -> FloatArray:
    """Latencies with a heavy tail whose logarithms follow an AR(1): the model of benchmarks/statistics."""
    z = np.empty(n)
    level = rng.normal()
    for at, shock in enumerate(rng.normal(size=n)):
        level = rho * level + np.sqrt(1.0 - rho * rho) * shock if at else level
        z[at] = level
    stalls = np.where(rng.random(n) < 0.02, 1.2 + 0.5 * rng.pareto(2.0, size=n), 1.0)
    return np.asarray(10.0 * np.exp(0.08 * z) * stalls)


def sample_of(values_ms: FloatArray, **more: Any) -> Sample:
    """Inferences back to back on a board on which nothing went wrong."""
    values = np.rint(values_ms * MS).astype(np.int64)
    known: dict[str, Any] = {
        "latencies_ns": values,
        "starts_ns": np.cumsum(values) - values,
        "duration_s": float(values.sum()) / 1e9,
        "conditions": Conditions(
            runtime="onnxruntime", runtime_version="1.20", page_size_bytes=16384, clock_cost_ns=60,
            throttled_before=0, throttled_after=0, boot_id_before="a", boot_id_after="a", steady_state_s=0.0,
        ),
    }  # fmt: skip
    return Sample(**{**known, **more})


def watched(seconds: int, *, every_s: float = 0.5, drift: float = 0.0, **sensors: Callable[[float], float]) -> Sample:
    """A measurement of so many seconds with sensors that follow functions of the time."""
    at = np.arange(0.0, seconds, every_s)
    noise = np.random.default_rng(4).normal(size=at.size)
    rows = []
    for second in range(seconds + 1):
        known = {name: of(float(second)) for name, of in sensors.items()}
        if "rss_bytes" in known:
            known["rss_bytes"] = int(known["rss_bytes"]) // 16384 * 16384
        rows.append(SensorReading(at_s=float(second), throttled=0, **known))  # type: ignore[arg-type]
    values = 10.0 * np.exp(0.08 * noise) * (1.0 + drift * at / seconds)
    starts = (at * 1e9).astype(np.int64)
    return sample_of(values, starts_ns=starts, readings=tuple(rows), duration_s=float(seconds))


def of_gate(kind: str, sample: Sample, name: str, *arguments: object, **named: object) -> bytes:
    """A plot as a run would draw it."""
    gate = parse(name, arguments, named, settings=GateSettings())
    return registry.draw(kind, gate, sample, file_format="svg")


def coin_flip() -> bytes:
    """How often "observed p95 ≤ budget" passes, by how slow the model really is."""
    ratios = np.linspace(0.8, 1.2, 41)

    def draw(axes: Any) -> canvas.Caption:
        rng = np.random.default_rng(11)
        for n, style in ((50, ":"), (200, "--"), (1000, "-")):
            observed = np.array([np.quantile(latencies_ms(rng, n), 0.95, method="inverted_cdf") for _ in range(400)])
            passed = [float((observed <= TRUE_P95_MS / ratio).mean()) for ratio in ratios]
            axes.plot(ratios, 100.0 * np.array(passed), style, color=canvas.BLUE, linewidth=1.8, label=f"n = {n}")
        axes.axvline(1.0, color=canvas.INK, linewidth=1.2, linestyle=(0, (5, 2)), label="exactly at the budget")
        axes.axhline(5.0, color=canvas.VERMILLION, linewidth=1.2, label="5 %: what a gate may pass wrongly")
        axes.set_ylim(0, 102)
        axes.set_xlabel("true p95 / budget: right of 1 the model is too slow")
        axes.set_ylabel("runs that pass, %")
        return canvas.Caption(
            outcome=None,
            headline="“observed p95 ≤ budget” is a coin flip at the budget",
            note="400 simulated runs for each n, correlation 0.5; more inferences do not help at 1.0",
            alt="Share of runs that pass the rule, against the true p95 over the budget, for three sizes of sample.",
        )

    return canvas.render(draw, file_format="svg")


def open_loop() -> bytes:
    """A stall as a closed loop sees it, and as those who wait do."""

    def draw(axes: Any) -> canvas.Caption:
        due = np.arange(0.0, 3.0, 0.01)
        service = np.full(due.size, 0.008)
        service[100] = 0.5
        ended, responses = 0.0, []
        for at, takes in zip(due, service, strict=True):
            ended = max(ended, at) + takes
            responses.append(ended - at)
        both = {"linewidth": 1.6}
        axes.plot(due, 1000.0 * np.array(responses), color=canvas.VERMILLION, label="from when it was due", **both)
        axes.plot(due, 1000.0 * service, color=canvas.BLUE, linestyle="--", label="from when it began", **both)
        axes.set_xlim(0.0, 3.0)
        axes.set_ylim(0.0, 540.0)
        axes.set_xlabel("time, s")
        axes.set_ylabel("response time, ms")
        late = float((np.array(responses) > 0.012).mean())
        return canvas.Caption(
            outcome=None,
            headline="One stall of 500 ms at 100 inferences a second",
            note=f"timed from its start one inference is slow; timed from when they were due {late:.0%} are",
            alt="Response times over three seconds: one long latency, then a queue that drains for two seconds.",
        )

    return canvas.render(draw, file_format="svg")


def mean() -> bytes:
    """The bounds of a mean time, look by look."""
    values = latencies_ms(np.random.default_rng(2), 960)

    def draw(axes: Any) -> canvas.Caption:
        for number, n in enumerate(looks(values.size), start=1):
            found = look(values[:n], alpha=0.05, number=number, unseen=UNSEEN_STALL)
            assert found is not None
            bar = [[found.mean - found.low], [found.high - found.mean]]
            label = "mean time with its bounds, at a look" if number == 1 else None
            axes.errorbar([n], [found.mean], yerr=bar, fmt="D", capsize=5.0, color=canvas.BLUE, label=label)
        limit = {"color": canvas.INK, "linewidth": 1.4, "linestyle": (0, (5, 2))}
        axes.axhline(1000.0 / 90.0, label="limit: 90 inferences a second", **limit)
        axes.set_xlim(0, 1010)
        axes.set_xlabel("inferences")
        axes.set_ylabel("mean time of an inference, ms")
        return canvas.Caption(
            outcome=None,
            headline="A mean is known less well than it looks",
            note="the upper bound counts a stall that was not seen yet; it weighs less as the sample grows",
            alt="Bounds of the mean after 60, 120, 240, 480 and 960 inferences; they get narrower.",
        )

    return canvas.render(draw, file_format="svg")


def size() -> bytes:
    """What is counted."""

    def draw(axes: Any) -> canvas.Caption:
        budget = 1.0
        for row, (weights, rest) in enumerate(((1.18, 0.06), (0.31, 0.06))):
            kept = weights + rest <= budget
            axes.barh([row], [weights], color=canvas.BLUE, height=0.5, label=None if row else "weights")
            axes.barh([row], [rest], left=[weights], color=canvas.ORANGE, height=0.5, label=None if row else "the rest")
            total = weights + rest
            axes.annotate(
                f"{total:.2f} MiB: {'PASS' if kept else 'FAIL'}", (total, row), (6, -3), textcoords="offset points"
            )
        axes.axvline(budget, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label="budget")
        axes.set_yticks([0, 1], ["fp32", "int8"])
        axes.set_ylim(-0.6, 1.9)
        axes.set_xlim(0.0, 1.6)
        axes.set_xlabel("bytes of the bundle, MiB")
        return canvas.Caption(
            outcome=None,
            headline="Bytes are counted: no sample, no error rate",
            note="everything in the bundle counts, as it is sent to a board; an example",
            alt="Two bundles of 1.24 and 0.37 MiB beside a budget of 1 MiB: the first one is too large.",
        )

    return canvas.render(draw, file_format="svg")


def cosines() -> bytes:
    """A rate of items that point elsewhere, and a mean that does not see them."""

    def draw(axes: Any) -> canvas.Caption:
        rng = np.random.default_rng(9)
        found = 1.0 - rng.gamma(2.0, 0.0009, size=400)
        found[rng.random(400) < 0.08] -= 0.03
        below = found < 0.99
        colours = np.where(below, canvas.VERMILLION, canvas.BLUE)
        for colour, label in ((canvas.BLUE, "items that point the same way"), (canvas.VERMILLION, "items that do not")):
            which = colours == colour
            axes.plot(np.flatnonzero(which), found[which], "o", markersize=3.0, color=colour, label=label)
        axes.axhline(0.99, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label="cosine that was asked for")
        axes.axhline(found.mean(), color=canvas.GREEN, linewidth=1.4, label="mean of all cosines")
        axes.set_ylim(0.95, 1.011)
        axes.set_xlim(-5, 405)
        axes.set_xlabel("item")
        axes.set_ylabel("cosine of output and baseline")
        low, high = clopper_pearson(found.size, int(below.sum()), 0.05)
        return canvas.Caption(
            outcome=None,
            headline=f"{int(below.sum())} of {found.size} items lie below 0.99; their share is {low:.1%} to {high:.1%}",
            note="share=0.95 allows 5 %; the mean of all cosines sees nothing of it",
            alt="Cosines of 400 items: most near 1, some at 0.97, below the line at 0.99; the mean is above it.",
        )

    return canvas.render(draw, file_format="svg")


def divergence() -> bytes:
    """Bounds that take tokens as independent, and bounds that draw prompts."""

    def draw(axes: Any) -> canvas.Caption:
        ours, alone = [], []
        for number in range(200):
            rng = np.random.default_rng([5, number])
            means = 0.02 * rng.lognormal(-0.08, 0.4, size=100)  # 0.02 nats on average: the truth
            prompt = np.repeat(np.arange(100), 100)
            values = rng.gamma(0.5, 2.0, size=prompt.size) * means[prompt]
            ours.append(1e3 * cluster_mean(values, prompt, 0.05, rng=rng, resamples=499).high)
            alone.append(1e3 * (values.mean() + 1.645 * values.std(ddof=1) / np.sqrt(values.size)))
        at = np.arange(1, 201)
        axes.plot(at, np.sort(ours), color=canvas.BLUE, linewidth=1.8, label="whole prompts drawn")
        axes.plot(at, np.sort(alone), "--", color=canvas.VERMILLION, linewidth=1.8, label="tokens taken as independent")
        axes.axhline(20.0, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label="the true mean")
        axes.set_xlim(0, 201)
        axes.set_xlabel("200 sets of 100 prompts, by their bound")
        axes.set_ylabel("upper bound of the mean KL, millinats")
        holds = [np.mean(np.array(one) >= 20.0) for one in (ours, alone)]
        return canvas.Caption(
            outcome=None,
            headline=f"Upper bounds that hold: {holds[0]:.0%} by prompts, {holds[1]:.0%} by tokens",
            note="95 % are stated by both; tokens of one prompt resemble each other, so they count for less",
            alt="Upper bounds of 200 sets: few of those by prompts lie below the true mean, many by tokens do.",
        )

    return canvas.render(draw, file_format="svg")


def first_token() -> bytes:
    """Which part of a generation it is."""

    def draw(axes: Any) -> canvas.Caption:
        rng = np.random.default_rng(12)
        for row in range(6):
            prefill = 180.0 * np.exp(0.15 * rng.normal())
            tokens = 42.0 * np.exp(0.06 * rng.normal(size=7))
            labels = (None, None) if row else ("time_to_first_token", "tokens_per_second: each further token")
            axes.barh([row], [prefill], height=0.55, color=canvas.ORANGE, label=labels[0])
            axes.barh(
                np.full(tokens.size, row), tokens - 4.0, left=prefill + np.cumsum(tokens) - tokens + 4.0, height=0.55,
                color=canvas.BLUE, label=labels[1],
            )  # fmt: skip
        axes.axvline(250.0, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label="budget of the first token")
        axes.set_yticks(range(6), [str(one) for one in range(1, 7)])
        axes.set_ylim(-0.6, 5.6)
        axes.set_xlim(0, 640)
        axes.set_xlabel("time from the prompt on, ms")
        axes.set_ylabel("generation")
        return canvas.Caption(
            outcome=None,
            headline="A generation is one observation of either gate",
            note="until the first token the prompt is read; its time is held against a quantile, as a latency is",
            alt="Six generations: a long stretch up to the first token, then seven short ones of about equal length.",
        )

    return canvas.render(draw, file_format="svg")


def meter() -> bytes:
    """A load that comes and goes more slowly than one looks."""

    def draw(axes: Any) -> canvas.Caption:
        rng = np.random.default_rng(3)
        at = np.arange(120)
        watts = np.where((at // 30) % 2 == 0, 4.4, 5.6) + rng.normal(0.0, 0.12, at.size)
        axes.plot(at, watts, ".", color=canvas.BLUE, markersize=4.0, label="power, read once a second")
        so_far = np.cumsum(watts) / (at + 1)
        axes.plot(at[4:], so_far[4:], color=canvas.VERMILLION, linewidth=1.6, label="mean so far")
        axes.axhline(5.0, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label="mean over a long time")
        axes.set_ylim(3.9, 6.4)
        axes.set_xlim(0, 120)
        axes.set_xlabel("time, s")
        axes.set_ylabel("power, W")
        return canvas.Caption(
            outcome=None,
            headline="120 readings, and hardly more than a handful that count",
            note="levels of 30 s: neighbours are alike, so V is large, and after 30 s the mean is off by 12 %",
            alt="Power over two minutes in levels of 30 s; the mean so far swings around the long-term mean.",
        )

    return canvas.render(draw, file_format="svg")


def tokens() -> bytes:
    """The bounds of a rate of tokens, look by look: observations are generations."""

    def draw(axes: Any) -> canvas.Caption:
        rng = np.random.default_rng(4)
        values = 42.0 * np.exp(0.12 * rng.normal(size=160))  # mean time of a token of each generation
        at = [n for n in (20, 40, 80, 160) if n <= values.size]
        for number, n in enumerate(at, start=1):
            found = look(values[:n], alpha=0.05, number=number, unseen=UNSEEN_STALL)
            assert found is not None
            rate, low, high = (1000.0 / one for one in (found.mean, found.high, found.low))
            label = "tokens a second with their bounds, at a look" if number == 1 else None
            axes.errorbar(
                [n], [rate], yerr=[[rate - low], [high - rate]], fmt="D", capsize=5.0, color=canvas.BLUE, label=label
            )
        limit = {"color": canvas.INK, "linewidth": 1.4, "linestyle": (0, (5, 2))}
        axes.axhline(20.0, label="at least 20 tokens a second", **limit)
        axes.set_xlim(0, 170)
        axes.set_xlabel("generations")
        axes.set_ylabel("tokens a second")
        return canvas.Caption(
            outcome=None,
            headline="Generations count, not tokens",
            note="each gives one mean time of a token; the lower bound counts a slow generation that was not seen yet",
            alt="Bounds of the rate after 20, 40, 80 and 160 generations; the lower one is above the limit from 80 on.",
        )

    return canvas.render(draw, file_format="svg")


def sessions() -> bytes:
    """What one session says of another."""

    def draw(axes: Any) -> canvas.Caption:
        rng = np.random.default_rng(21)
        for number in range(12):
            values = latencies_ms(rng, 1000) * np.exp(0.03 * rng.normal())
            found = log_quantile(values.reshape(20, 50), 0.95)
            centre, reach = np.exp(found.value), 1.729 * jackknife_error(found.without) * np.exp(found.value)
            label = None if number else "p95, with the bounds of 1000 inferences"
            axes.errorbar([number + 1], [centre], yerr=[reach], fmt="D", capsize=4.0, color=canvas.BLUE, label=label)
        low, high = TRUE_P95_MS * np.exp(-1.645 * 0.03), TRUE_P95_MS * np.exp(1.645 * 0.03)
        axes.axhspan(low, high, color=canvas.ORANGE, alpha=0.25, label="nine of ten sessions, at a spread of 3 %")
        axes.axhline(TRUE_P95_MS, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label="typical session")
        axes.set_xlim(0, 13)
        axes.set_ylim(10.4, 13.8)
        axes.set_xticks(range(1, 13))
        axes.set_xlabel("session: another boot, another day")
        axes.set_ylabel("p95, ms")
        return canvas.Caption(
            outcome=None,
            headline="The same model, twelve sessions",
            note="they differ by more than any one of them can tell: hence session_spread, on both sides",
            alt="The p95 of twelve sessions with bounds; several bounds do not reach the typical session's p95.",
        )

    return canvas.render(draw, file_format="svg")


def items() -> bytes:
    """How many items it takes to certify an agreement."""

    def draw(axes: Any) -> canvas.Caption:
        for limit, colour, marker in ((0.98, canvas.BLUE, "o"), (0.99, canvas.ORANGE, "s"), (0.995, canvas.GREEN, "^")):
            needed = []
            for wrong in range(6):
                low, high = wrong + 1, 4000
                while low < high:
                    middle = (low + high) // 2
                    if clopper_pearson(middle, wrong, 0.05)[1] <= 1.0 - limit:
                        high = middle
                    else:
                        low = middle + 1
                needed.append(low)
            axes.plot(range(6), needed, marker=marker, color=colour, linewidth=1.6, label=f"agreement ≥ {limit:.1%}")
            axes.annotate(str(needed[0]), (0, needed[0]), (6, -12), textcoords="offset points", color=colour)
        axes.set_ylim(0, None)
        axes.set_xlim(-0.15, 5.15)
        axes.set_xlabel("items on which model and baseline disagree")
        axes.set_ylabel("items in the set")
        return canvas.Caption(
            outcome=None,
            headline="So many items certify an agreement at α = 5 %",
            note="one exact test of the whole set",
            alt="Items that are needed, against the number of disagreements, for three limits.",
        )

    return canvas.render(draw, file_format="svg")


def starts() -> bytes:
    """What a few good starts leave open."""

    def draw(axes: Any) -> canvas.Caption:
        n = np.arange(1, 31)
        axes.plot(n, 100.0 * (1.0 - 0.05 ** (1.0 / n)), "o-", color=canvas.BLUE, markersize=4.0, linewidth=1.4)
        axes.set_ylim(0, 100)
        axes.set_xlabel("cold starts, all within the budget")
        axes.set_ylabel("share of slow starts that is not excluded, %")
        return canvas.Caption(
            outcome=None,
            headline="What a few good starts leave open",
            note="upper 95 % bound of the share of starts that exceed the budget, with none seen",
            alt="The bound falls from 95 % after one start to 63 % after three and 10 % after thirty.",
        )

    return canvas.render(draw, file_format="svg")


def spike() -> bytes:
    """Why memory is not polled."""

    def draw(axes: Any) -> canvas.Caption:
        at = np.arange(0.0, 12.0, 0.01)
        held = 90.0 + 3.0 * np.sin(at) + np.where((at > 5.3) & (at < 5.6), 60.0, 0.0)
        axes.plot(at, held, color=canvas.BLUE, linewidth=1.2, label="memory of the process")
        polled = np.arange(0, 12)
        axes.plot(
            polled, 90.0 + 3.0 * np.sin(polled), "o", color=canvas.INK, markersize=4.5, label="polled each second"
        )
        axes.axhline(held.max(), color=canvas.VERMILLION, linewidth=1.4, label="VmHWM: the kernel's own mark")
        axes.axhline(120.0, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label="budget")
        axes.set_ylim(60, 165)
        axes.set_xlabel("time, s")
        axes.set_ylabel("memory, MiB")
        return canvas.Caption(
            outcome=None,
            headline="A spike of 0.3 s that no reading saw",
            note="the gate takes the high-water mark; readings are for the picture",
            alt="Memory over twelve seconds with a short spike between two readings, above the budget.",
        )

    return canvas.render(draw, file_format="svg")


def rerun() -> bytes:
    """Running again until it is green."""

    def draw(axes: Any) -> canvas.Caption:
        runs = np.arange(1, 21)
        axes.plot(
            runs, 100.0 * (1.0 - 0.95**runs), "o-", color=canvas.VERMILLION, markersize=4.0, label="started again"
        )
        axes.plot(runs, np.full(20, 5.0), "s-", color=canvas.BLUE, markersize=4.0, label="continued (--edgehil-rerun)")
        axes.set_ylim(0, 70)
        axes.set_xlabel("runs at most, until one passes")
        axes.set_ylabel("wrong PASS at most, %")
        axes.set_xticks([1, 5, 10, 15, 20])
        return canvas.Caption(
            outcome=None,
            headline="Running it again until it is green voids the error rate",
            note="each fresh run errs in up to 5 % of the cases; one e-process that goes on errs in 5 % in all",
            alt="The chance of a wrong PASS grows to 64 % with twenty fresh runs and stays at 5 % if continued.",
        )

    return canvas.render(draw, file_format="svg")


def _pairs(ratio: float) -> Sample:
    rng = np.random.default_rng(6)
    blocks = tuple(
        BlockPair(
            candidate_ns=np.rint(latencies_ms(rng, 50) * ratio * MS).astype(np.int64),
            baseline_ns=np.rint(latencies_ms(rng, 50) * MS).astype(np.int64),
            candidate_first=bool(number % 2),
            candidate_start_ns=number * 10**9,
            baseline_start_ns=number * 10**9 + 5 * 10**8,
        )
        for number in range(20)
    )
    series = Paired(baseline="digits-fp32", digest="sha256:00", seed=1, pairs=blocks)
    return sample_of(np.array([10.0, 10.1]), paired=(series,))


def _rss(leak_mb_per_h: float) -> Callable[[float], float]:
    return lambda t: 1e8 + 3e7 * (1.0 - np.exp(-t / 400.0)) + leak_mb_per_h * 1e6 * t / 3600.0 + 1e7 * (t % 37.0) / 37.0


def _warming(end_c: float) -> Callable[[float], float]:
    return lambda t: 0.55 * round((end_c - (end_c - 45.0) * np.exp(-t / 140.0) + 0.4 * np.sin(1.7 * t)) / 0.55)


def _timed(n: int, seed: int = 1) -> Sample:
    return sample_of(latencies_ms(np.random.default_rng(seed), n))


FIGURES: Mapping[str, Callable[[], bytes]] = {
    "coin-flip": coin_flip,
    "rerun": rerun,
    "distribution": lambda: of_gate("distribution", _timed(400), "p95_latency", "13 ms", min_duration="0 s"),
    "evidence": lambda: of_gate("evidence", _timed(400), "p95_latency", "13 ms", min_duration="0 s"),
    "evidence-open": lambda: of_gate("evidence", _timed(1000, 3), "p95_latency", "11.6 ms", min_duration="0 s"),
    "open-loop": open_loop,
    "ratios": lambda: of_gate("ratios", _pairs(1.06), "p95_latency", baseline="digits-fp32", ratio=1.10),
    "golden": sessions,
    "mean": mean,
    "tokens": tokens,
    "first-token": first_token,
    "meter": meter,
    "items": items,
    "cosines": cosines,
    "divergence": divergence,
    "size": size,
    "spike": spike,
    "starts": starts,
    "temperature": lambda: of_gate("temperature", watched(600, temperature_c=_warming(72.0)), "thermal", "80 C"),
    "memory": lambda: of_gate("memory", watched(2100, rss_bytes=_rss(20.0)), "soak", "1 h", leak="5 MiB/h"),
    "drift": lambda: of_gate("drift", watched(3600, drift=0.04), "soak", "1 h", drift="10 %"),
}
"""Name of the file → draws it."""


def main(directory: Path) -> None:
    """Draw all of them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        (directory / f"{name}.svg").write_bytes(draw())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

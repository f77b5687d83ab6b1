"""Pictures: what is drawn is what the gate saw, the same bytes every time, and nothing breaks where there are none."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import records, samples
from support.samples import MS, latencies_ms, over_time, timed, to_ns

from pytest_edgehil.evidence import raw
from pytest_edgehil.gates.gate import Gate, GateSettings
from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.gates.registry import parse
from pytest_edgehil.model.record import GateUse, TestRecord
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.series import BlockPair, OpenLoop, Paired
from pytest_edgehil.reporting.plots import album, canvas, registry, thinning, words

SVG = "{http://www.w3.org/2000/svg}"


def gate(name: str, *arguments: object, **named: object) -> Gate:
    return parse(name, arguments, named, settings=GateSettings())


def latencies(n: int = 400, *, seed: int = 1) -> Sample:
    return timed(to_ns(latencies_ms(np.random.default_rng(seed), n, rho=0.5)))


def warming(end_c: float = 70.0, seconds: int = 600) -> Sample:
    return over_time(seconds, temperature_c=lambda t: end_c - (end_c - 45.0) * np.exp(-t / 120.0) + 0.3 * np.sin(t))


P95 = gate("p95_latency", "12 ms", max_samples=400)
COOL = gate("thermal", "80 C")


def drawn(name: str, of: Gate, sample: Sample) -> ET.Element:
    return ET.fromstring(registry.draw(name, of, sample, file_format="svg"))


def group(svg: ET.Element, gid: str) -> ET.Element:
    return next(one for one in svg.iter(f"{SVG}g") if one.get("id") == gid)


def path_of(svg: ET.Element, gid: str) -> list[tuple[float, float]]:
    """The points of the line that was given this id, in the picture's own coordinates."""
    d = next(one.get("d", "") for one in group(svg, gid).iter(f"{SVG}path"))
    numbers = [float(one) for one in re.findall(r"-?[0-9.]+", d)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def scale_of(svg: ET.Element, axis: str) -> dict[str, float]:
    """Label of a tick → where it is."""
    found = {}
    for one in svg.iter(f"{SVG}g"):
        if re.fullmatch(rf"{axis}tick_[0-9]+", one.get("id", "")):
            label = next("".join(text.itertext()) for text in one.iter(f"{SVG}text"))
            mark = next(iter(one.iter(f"{SVG}use")))
            found[label.replace("\u2212", "-")] = float(mark.get(axis, "nan"))
    return found


def value_at(svg: ET.Element, axis: str, position: float) -> float:
    """What a position on an axis means, told from the labels of its ticks."""
    ticks = sorted((at, float(label.lstrip("p"))) for label, at in scale_of(svg, axis).items())
    (a, low), (b, high) = ticks[0], ticks[-1]
    return low + (position - a) / (b - a) * (high - low)


@pytest.mark.parametrize("module", [thinning, words])
def test_examples_in_the_docstrings(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted > 0
    assert found.failed == 0


# --- what is drawn -----------------------------------------------------------------------------------


def test_budget_and_observed_quantile_stand_where_their_numbers_are() -> None:
    sample = latencies()
    svg = drawn("distribution", P95, sample)
    assert value_at(svg, "x", path_of(svg, "budget")[0][0]) == pytest.approx(12.0, abs=0.05)
    verdict = P95.evaluate(sample)
    assert verdict.observed is not None
    dot = next(iter(group(svg, "observed").iter(f"{SVG}use")))
    assert value_at(svg, "x", float(dot.get("x", "nan"))) == pytest.approx(verdict.observed / MS, abs=0.05)
    assert value_at(svg, "y", float(dot.get("y", "nan"))) == pytest.approx(95.0, abs=0.5)
    low, high = (value_at(svg, "x", x) for x, _ in path_of(svg, "interval"))
    assert verdict.interval is not None
    assert (low, high) == pytest.approx([one / MS for one in verdict.interval], abs=0.05)


def test_a_distribution_holds_every_inference_that_decided() -> None:
    svg = drawn("distribution", P95, latencies(60))
    assert len(path_of(svg, "judged")) == 2 * 61 - 1  # a step up and a step to the right for each


def test_evidence_has_a_mark_for_every_look_and_ends_with_the_verdict() -> None:
    sample = latencies()
    verdict = P95.evaluate(sample)
    svg = drawn("evidence", P95, sample)
    looks = int(verdict.statistics["looks"])
    for name in ("PASS", "FAIL"):
        assert len(list(group(svg, f"evidence-{name}").iter(f"{SVG}use"))) == looks
        assert len(path_of(svg, f"evidence-{name}")) == looks + 1
    assert isinstance(P95, LatencyQuantile)
    last = P95.trace(sample)[-1]
    assert last.log_e_pass == pytest.approx(verdict.statistics["log_e_pass"])
    assert last.log_e_fail == pytest.approx(verdict.statistics["log_e_fail"])


def test_limit_and_predicted_end_of_a_temperature_stand_where_their_numbers_are() -> None:
    sample = warming()
    svg = drawn("temperature", COOL, sample)
    verdict = COOL.evaluate(sample)
    assert value_at(svg, "y", path_of(svg, "limit")[0][1]) == pytest.approx(80.0, abs=0.2)
    assert value_at(svg, "y", path_of(svg, "settles")[0][1]) == pytest.approx(verdict.observed, abs=0.2)


def soaked(*, leak_mb_per_h: float, drift: float, seconds: int = 3600) -> Sample:
    """A soak with a saw on a warm-up curve and one inference in half a second."""

    def rss(t: float) -> float:
        return 1e8 + 3e7 * (1.0 - np.exp(-t / 400.0)) + leak_mb_per_h * 1e6 * t / 3600.0 + 1e7 * ((t % 37.0) / 37.0)

    at = np.arange(2 * seconds) / 2.0
    noise = np.random.default_rng(4).normal(size=at.size)
    values = to_ns(10.0 * np.exp(0.08 * noise) * (1.0 + drift * at / seconds))
    return over_time(seconds, rss_bytes=rss).replace(latencies_ns=values, starts_ns=(at * 1e9).astype(np.int64))


def paired(ratio: float, pairs: int = 20) -> Sample:
    """Pairs of blocks of 50 against ``digits-fp32``."""
    rng = np.random.default_rng(3)
    blocks = tuple(
        BlockPair(
            candidate_ns=to_ns(latencies_ms(rng, 50, rho=0.5) * ratio),
            baseline_ns=to_ns(latencies_ms(rng, 50, rho=0.5)),
            candidate_first=bool(number % 2),
            candidate_start_ns=number * 10**9,
            baseline_start_ns=number * 10**9 + 10**8,
        )
        for number in range(pairs)
    )
    series = Paired(baseline="digits-fp32", digest="sha256:00", seed=1, pairs=blocks)
    return timed([9 * MS, 10 * MS], paired=(series,))


SOAK = gate("soak", "1 h", leak="5 MiB/h", drift="10 %", peak_rss="200 MiB")
AGAINST = gate("p95_latency", baseline="digits-fp32", ratio=1.1)


def test_memory_is_drawn_with_every_minute_the_ceiling_and_the_fit_that_was_judged() -> None:
    sample = soaked(leak_mb_per_h=1.0, drift=0.0)
    svg = drawn("memory", SOAK, sample)
    assert value_at(svg, "y", path_of(svg, "ceiling")[0][1]) == pytest.approx(200.0, abs=0.5)
    assert len(list(group(svg, "minima").iter(f"{SVG}use"))) == 60
    low, high = (value_at(svg, "y", path_of(svg, name)[-1][1]) for name in ("fit", "budget"))
    assert high > low  # the budget allows more than was seen


def test_drift_is_drawn_with_its_trend_and_the_one_that_is_allowed() -> None:
    svg = drawn("drift", SOAK, soaked(leak_mb_per_h=1.0, drift=0.2))
    (_, first), *_, (_, last) = path_of(svg, "trend")
    assert value_at(svg, "y", last) / value_at(svg, "y", first) == pytest.approx(1.2, abs=0.03)
    (_, first), *_, (_, last) = path_of(svg, "budget")
    assert value_at(svg, "y", last) / value_at(svg, "y", first) == pytest.approx(1.1, abs=0.01)


def test_ratios_are_drawn_pair_by_pair_with_the_limit() -> None:
    svg = drawn("ratios", AGAINST, paired(1.0))
    assert len(list(group(svg, "pairs").iter(f"{SVG}use"))) == 20
    assert value_at(svg, "y", path_of(svg, "limit")[0][1]) == pytest.approx(1.1, abs=0.002)


def test_responses_at_a_rate_are_drawn_and_not_the_latencies_of_a_closed_loop() -> None:
    due = np.arange(200, dtype=np.int64) * 50 * MS
    values = to_ns(latencies_ms(np.random.default_rng(1), 200))
    series = OpenLoop(rate_hz=20.0, intended_ns=due, starts_ns=due + 2 * MS, latencies_ns=values)
    sample = timed([1 * MS, 2 * MS], open_loop=(series,), duration_s=10.0)
    at_rate = gate("p95_latency", "40 ms", rate="20/s", max_samples=200)
    verdict = at_rate.evaluate(sample)
    assert set(registry.names(at_rate, sample, verdict)) == {"distribution", "evidence"}
    svg = drawn("distribution", at_rate, sample)
    dot = next(iter(group(svg, "observed").iter(f"{SVG}use")))
    assert verdict.observed is not None
    assert value_at(svg, "x", float(dot.get("x", "nan"))) == pytest.approx(verdict.observed / MS, abs=0.2)


@pytest.mark.parametrize(
    ("name", "of", "sample"),
    [
        ("memory", SOAK, soaked(leak_mb_per_h=20.0, drift=0.0)),
        ("memory", SOAK, soaked(leak_mb_per_h=0.0, drift=0.0, seconds=300)),
        ("drift", SOAK, soaked(leak_mb_per_h=0.0, drift=0.2)),
        ("ratios", AGAINST, paired(1.25)),
        ("distribution", P95, latencies()),
        ("distribution", gate("p95_latency", "8 ms"), latencies(30)),
        ("evidence", P95, latencies()),
        ("temperature", COOL, warming()),
        ("temperature", COOL, warming(92.0, 300)),
        ("temperature", COOL, warming(70.0, 90)),
    ],
)
def test_every_picture_says_its_verdict_labels_its_axes_and_is_told_to_those_who_cannot_see(
    name: str, of: Gate, sample: Sample
) -> None:
    raw_svg = registry.draw(name, of, sample, file_format="svg")
    svg = ET.fromstring(raw_svg)
    verdict = of.evaluate(sample)
    title, desc = svg.find(f"{SVG}title"), svg.find(f"{SVG}desc")
    assert svg.get("role") == "img"
    assert title is not None
    assert (title.text or "").startswith(f"{verdict.outcome.value} {of.name}")
    assert desc is not None
    assert verdict.reason in (desc.text or "")
    shown = ["".join(one.itertext()) for one in svg.iter(f"{SVG}text")]
    assert any(one.startswith(verdict.outcome.value) for one in shown)
    axes = [one for one in shown if re.search(r", (ms|µs|s|min|%|°C|MiB|ratio)$|inferences|evidence", one)]
    assert len(axes) >= 2
    assert len(raw_svg) < 60_000
    assert raw_svg == registry.draw(name, of, sample, file_format="svg")


def test_a_png_has_the_same_bytes_every_time_and_carries_its_description() -> None:
    first = registry.draw("distribution", P95, latencies(100), file_format="png")
    assert first == registry.draw("distribution", P95, latencies(100), file_format="png")
    assert b"Description" in first


def test_a_users_own_style_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    before = registry.draw("distribution", P95, latencies(100), file_format="svg")
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30.0}):
        assert registry.draw("distribution", P95, latencies(100), file_format="svg") == before
        assert mpl.rcParams["font.size"] == 30.0


def test_an_invalid_measurement_is_shown_with_the_reason_and_without_evidence() -> None:
    sample = latencies(100).replace(conditions=samples.conditions(throttled_after=0x50000))
    verdict = P95.evaluate(sample)
    assert registry.names(P95, sample, verdict) == ("distribution",)
    shown = "".join(drawn("distribution", P95, sample).itertext())
    assert "INVALID" in shown
    assert "throttled bits changed" in shown


def test_nothing_is_drawn_of_numbers_that_are_no_measurement() -> None:
    sample = timed(np.full(40, 9 * MS))
    assert registry.names(P95, sample, P95.evaluate(sample)) == ()


def test_a_million_latencies_keep_their_extremes_and_stay_small() -> None:
    values = to_ns(latencies_ms(np.random.default_rng(3), 1_000_000))
    x, share = thinning.distribution(values)
    assert (x[0], x[-1]) == (values.min(), values.max())
    assert share[-1] == 1.0
    assert x.shape[0] < 400
    at = np.searchsorted(x, np.quantile(values, 0.95))
    assert share[at] == pytest.approx(0.95, abs=0.005)


# --- the album of a run ------------------------------------------------------------------------------


def measured(directory: Path, name: str, sample: Sample, *gates: Gate) -> TestRecord:
    uses = tuple(GateUse(name=one.name, arguments=one.arguments()) for one in gates)
    raw.write_sample(directory / "samples" / f"{name}.json.gz", sample, uses)
    verdicts = tuple(one.evaluate(sample) for one in gates)
    promised = album.pictures(name, gates, verdicts, sample, file_format="svg")
    files = {"samples": f"samples/{name}.json.gz", **{one.purpose: one.path for one in promised}}
    return replace(records.passed(), gates=uses, verdicts=verdicts, files=files, nonce=name)


class Published:
    def __init__(self) -> None:
        self.told: dict[str, Path | str] = {}

    def __call__(self, record: TestRecord, path: str, file: Path | str) -> None:
        self.told[path] = file


def test_what_was_promised_is_drawn_into_the_report(tmp_path: Path) -> None:
    record = measured(tmp_path, "t-1", latencies(), P95, gate("size", "1 MiB"))
    told = Published()
    found = album.draw_all([record], tmp_path, file_format="svg", clock=lambda: 0.0, publish=told)
    assert found.problems == ()
    assert found.count == 2
    assert set(record.files) == {"samples", "plot p95_latency distribution", "plot p95_latency evidence"}
    assert record.files["plot p95_latency evidence"] == "plots/t-1-p95-latency-evidence.svg"
    for path in ("plots/t-1-p95-latency-distribution.svg", "plots/t-1-p95-latency-evidence.svg"):
        assert (tmp_path / path).read_bytes().startswith(b"<?xml")
        assert told.told[path] == tmp_path / path
    assert found.records == (record,)


def test_a_picture_that_cannot_be_drawn_is_taken_back_and_said(tmp_path: Path) -> None:
    record = measured(tmp_path, "t-1", latencies(), P95)
    (tmp_path / "samples" / "t-1.json.gz").write_bytes(b"not a sample")
    told = Published()
    found = album.draw_all([record], tmp_path, file_format="svg", clock=lambda: 0.0, publish=told)
    assert found.count == 0
    assert list(found.records[0].files) == ["samples"]
    assert any("EvidenceError" in one for one in found.problems)
    assert all(isinstance(one, str) for one in told.told.values())


def test_when_time_is_up_those_that_did_not_pass_have_been_drawn_first(tmp_path: Path) -> None:
    good = measured(tmp_path, "good-1", latencies(), P95)
    bad = replace(measured(tmp_path, "bad-1", latencies(), P95), status=records.failed().status)
    ticks = iter([0.0, 1.0, 99.0])
    found = album.draw_all(
        [good, bad], tmp_path, file_format="svg", clock=lambda: next(ticks), publish=Published(), time_s=60.0
    )
    assert [len(one.files) for one in found.records] == [1, 3]
    assert found.problems == ("2 were not drawn, for the 60 s for drawing were spent",)


def test_two_gates_of_one_name_have_pictures_of_their_own(tmp_path: Path) -> None:
    record = measured(tmp_path, "t-1", latencies(), P95, gate("p95_latency", "14 ms"))
    assert len(set(record.files.values())) == 5


def test_an_apology_is_a_picture_that_says_why() -> None:
    svg = ET.fromstring(canvas.apology("no picture: <time> is up", file_format="svg"))
    assert "".join(svg.itertext()).count("<time> is up") == 2
    assert canvas.apology("no picture", file_format="png").startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_the_extra_and_promising_imports_nothing(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["matplotlib"] = None
from pytest_edgehil.errors import UserError
from pytest_edgehil.reporting.plots import album, canvas
try:
    canvas.render(lambda axes: None, file_format="svg")
except UserError as problem:
    print(problem)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert "pip install 'pytest-edgehil[plots]'" in told.stdout
    assert "--edgehil-plots=off" in told.stdout
    assert json.dumps(told.stderr) == '""'


def test_the_share_of_items_is_drawn_over_the_items_that_decided() -> None:
    agreed = np.arange(600) != 20
    sample = Sample.empty().replace(agreed=agreed, evaluated_of=600)
    of = gate("accuracy", agreement=0.95)
    verdict = of.evaluate(sample)
    assert registry.names(of, sample, verdict) == ("items",)
    svg = drawn("items", of, sample)
    assert "1 exception" in "".join(svg.itertext())
    assert len(path_of(svg, "observed")) > 10
    close = gate("cosine_similarity", 0.99)
    cosines = Sample.empty().replace(cosines=np.where(agreed, 0.999, np.nan), evaluated_of=600)
    assert registry.names(close, cosines, close.evaluate(cosines)) == ("items",)
    assert registry.draw("items", close, cosines, file_format="png")[:4] == b"\x89PNG"
    drop = gate("accuracy", drop=0.05)
    assert registry.names(drop, sample, drop.evaluate(sample)) == ()

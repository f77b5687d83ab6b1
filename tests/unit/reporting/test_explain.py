"""Why a verdict is what it is, in words and figures."""

import doctest
import math

import pytest
from support import records, samples

from pytest_edgehil.gates import registry
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting import explain as explaining
from pytest_edgehil.reporting.explain import explain, figures

MS = samples.MS


def test_examples_in_the_docstrings():
    outcome = doctest.testmod(explaining)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_sentence_comes_first_then_figures_then_what_would_change_it():
    verdict = Verdict(
        gate="size",
        outcome=Outcome.FAIL,
        unit="bytes",
        n=1,
        observed=2048.0,
        budget=1024.0,
        reason="the artifact has 2 KiB, 1024 bytes above 1 KiB",
        would_change="a budget of at least 2 KiB would have passed",
    )
    assert explain(verdict) == (
        "FAIL size: the artifact has 2 KiB, 1024 bytes above 1 KiB",
        "figures: observed 2 KiB > budget 1 KiB; n = 1",
        "would change it: a budget of at least 2 KiB would have passed",
    )


def test_latency_gate_shows_every_figure_that_led_to_its_verdict():
    gate = registry.parse("p95_latency", ("12 ms",), {}, settings=GateSettings())
    sample = samples.timed([9 * MS + i * 7919 % 1000 for i in range(100)])
    told = figures(gate.evaluate(sample))
    for part in (
        "observed 9 ms ≤ budget 12 ms",
        "n = 94 (counts as 75.5: V = 1.25)",
        "0 beyond the budget",
        "α = 5 % a side",
        "looks",
        "decides",
    ):
        assert part in told


def test_only_one_known_bound_is_said_as_one():
    verdict = Verdict(
        gate="p95_latency", outcome=Outcome.FAIL, unit="ns", n=30, reason="", statistics={"lower_bound": 13e6}
    )
    assert "at least 13 ms" in figures(verdict)


def test_unheard_of_figures_are_shown_under_their_own_names_with_units():
    verdict = Verdict(
        gate="new",
        outcome=Outcome.PASS,
        unit="ns",
        n=0,
        reason="",
        statistics={"hottest_mean_c": 71.5, "swapped_bytes": 2048.0, "measured_s": 90.0, "pairs": 12.0},
    )
    assert figures(verdict) == "hottest mean 71.5 °C, swapped 2 KiB, measured 1.5 min, pairs 12"


@pytest.mark.parametrize(("logarithm", "shown"), [(-math.inf, "0"), (40.0, "10^17"), (2.9957, "20")])
def test_evidence_of_any_size_is_readable(logarithm: float, shown: str):
    verdict = Verdict(
        gate="p95_latency",
        outcome=Outcome.PASS,
        unit="ns",
        n=9,
        reason="",
        statistics={"alpha": 0.05, "log_e_pass": logarithm},
    )
    assert f"for PASS {shown} (20 decides)" in figures(verdict)


def test_no_line_breaks_whatever_the_verdict():
    for record in (*records.farm_run(), records.unbounded()):
        for verdict in record.verdicts:
            assert all("\n" not in line for line in explain(verdict))

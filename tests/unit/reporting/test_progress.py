from __future__ import annotations

from support.samples import MIB, over_time, reading

from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import Sample
from pytest_edgehil.model.series import LinkDrop
from pytest_edgehil.reporting.progress import LONGEST_REASON, line


def test_a_line_says_how_far_how_hot_how_large_and_what_is_still_open():
    sample = over_time(720, rss_bytes=lambda _: 182 * MIB, link_drops=(LinkDrop(at_s=1.0, lasted_s=2.0),))
    soak = parse("soak", ("1 h",), {"crash_rate": 0.01}, settings=GateSettings())
    told = line(sample, (soak.evaluate(sample),))
    assert told.startswith("minute 12: 7200 inferences, ")
    assert "182 MiB, no crash, link lost 1 times; soak: " in told
    assert "72 stretches" in told


def test_gates_that_have_decided_are_not_repeated_and_reasons_are_cut():
    sample = over_time(60, crashes_at_s=(3.0,), crash_reasons=("x" * 900,))
    failed = parse("soak", ("1 h",), {}, settings=GateSettings()).evaluate(sample)
    assert "soak" not in line(sample, (failed,))
    open_still = parse("soak", ("1 h",), {"crash_rate": 0.3}, settings=GateSettings()).evaluate(sample)
    assert len(line(sample, (open_still,))) < LONGEST_REASON + 120


def test_a_board_without_sensors_has_progress_too():
    sample = Sample.empty().replace(duration_s=90.0, readings=(reading(1.0, rss_bytes=None, temperature_c=None),))
    assert line(sample, ()) == "minute 1.5: 0 inferences, no crash"


def test_a_measurement_that_has_just_begun_is_at_minute_nought() -> None:
    assert line(Sample.empty().replace(duration_s=0.00093), ()).startswith("minute 0: ")

from __future__ import annotations

from dataclasses import replace

from support import records as make

from pytest_edgehil.reporting.junit import properties


def test_every_gate_has_its_numbers_in_bare_units() -> None:
    found = dict(properties(make.passed()))
    assert found["edgehil.gate.p95_latency.verdict"] == "PASS"
    assert float(found["edgehil.gate.p95_latency.observed"]) == 9.82e6
    assert found["edgehil.gate.p95_latency.budget"] == "12000000.0"
    assert found["edgehil.gate.p95_latency.unit"] == "ns"
    assert found["edgehil.gate.p95_latency.n"] == "480"
    assert float(found["edgehil.gate.accuracy.interval_low"]) < float(found["edgehil.gate.accuracy.interval_high"])
    assert found["edgehil.gate.peak_rss.reason"].startswith("VmHWM")


def test_board_combo_and_lease_are_named() -> None:
    found = dict(properties(make.passed()))
    assert found["edgehil.board"] == "pi5-01"
    assert found["edgehil.environment"] == "virtual"
    assert found["edgehil.model"] == "digits 1.0.0 int8-static"
    assert found["edgehil.model_digest"] == make.GOOD.digest
    assert found["edgehil.firmware"] == "edge-os 2026.11"
    assert found["edgehil.lease_token"] == "17"


def test_what_is_not_known_is_left_out() -> None:
    found = dict(properties(make.infrastructure()))
    assert found == {"edgehil.status": "infrastructure", "edgehil.attempt": "1"}


def test_a_quarantine_is_told() -> None:
    assert dict(properties(make.put_back()))["edgehil.quarantined"].startswith("link to pi5-04 broke")


def test_a_gate_that_was_applied_twice_keeps_both_verdicts_apart() -> None:
    twice = replace(make.passed(), verdicts=(make.latency(), make.latency(observed_ms=9.9)))
    found = properties(twice)
    assert len({name for name, _ in found}) == len(found)
    assert float(dict(found)["edgehil.gate.p95_latency[2].observed"]) == 9.9e6

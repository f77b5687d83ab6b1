from __future__ import annotations

import json

import pytest

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import Fault
from pytest_edgehil.virtual import faults
from pytest_edgehil.virtual.control import fault_from
from pytest_edgehil.virtual.faults import check_fault, option


def test_the_kinds_are_those_of_the_issue():
    assert set(faults.KINDS) == {
        "link-cut", "link-stall", "ssh-refused", "power-cut", "disk-full",
        "out-of-memory", "panic", "stuck-boot", "overheat", "slow-link",
    }  # fmt: skip
    assert set(faults.KINDS) >= faults.LEVELS


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (Fault(kind="link-cutt"), "unknown: expected one of link-cut"),
        (Fault(kind="slow-link", options={"rate": 1}), "unknown option 'rate': expected rate_bytes_per_s"),
        (Fault(kind="stuck-boot", options={"rate": 1}), "it has none"),
        (Fault(kind="slow-link", options={"rate_bytes_per_s": 0}), "expected more; use link-stall"),
        (Fault(kind="overheat", options={"limit_c": -1}), "expected a number ≥ 0"),
        (Fault(kind="overheat", options={"limit_c": float("nan")}), "expected a number ≥ 0"),
        (Fault(kind="overheat", options={"limit_c": True}), "expected a number ≥ 0"),
        (Fault(kind="panic", after_s=-1.0), "after_s is -1.0"),
        (Fault(kind="link-cut", after_bytes=-5), "after_bytes is -5"),
    ],
)
def test_what_a_board_cannot_do_is_refused_with_what_it_can(fault, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_fault(fault)


def test_options_have_defaults():
    assert option(Fault(kind="slow-link"), "rate_bytes_per_s") == 20_000
    assert option(Fault(kind="slow-link", options={"rate_bytes_per_s": 5}), "rate_bytes_per_s") == 5


@pytest.mark.parametrize("request_", [{}, {"kind": "panic", "when": 3}, {"after_s": 1}])
def test_a_malformed_request_is_refused(request_):
    with pytest.raises(ConfigError, match="expected kind, after_bytes, after_s, options"):
        fault_from(json.loads(json.dumps(request_)))

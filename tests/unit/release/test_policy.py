from __future__ import annotations

from pathlib import Path

import pytest

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.evidence.canonical import digest_of
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.board import Environment
from pytest_edgehil.release.policy import load_policy

FARM = Path(__file__).parents[3] / "farm"

GOOD = """\
policy: p
environments: [hardware]
board_classes: [pi5-8gb-hat2]
max_age: 2 d
gates:
  p95_latency: {at_most: 12 ms, alpha: 0.05, min_n: 100}
  accuracy: {at_least: 0.98, arguments: {baseline: digits-fp32}}
soak: {min_duration: 1 h}
companions: {firmware: required}
"""


def test_a_policy_is_read_with_its_units(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(GOOD)
    policy = load_policy(path)
    assert policy.digest == digest_of(GOOD.encode())
    assert policy.environments == {Environment.HARDWARE}
    assert (policy.max_age_s, policy.min_soak_s) == (172800.0, 3600.0)
    assert policy.gates[0].limit is not None
    assert (policy.gates[0].limit.value, policy.gates[0].limit.unit) == (12e6, "ns")
    assert policy.companions[Track.FIRMWARE].rule == "required"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("12 ms", "12 parsecs", r"policy.yaml:6: gates.p95_latency.at_most: '12 parsecs' is no limit"),
        (
            "max_age: 2 d",
            "max_ages: 2 d",
            r"policy.yaml:4: max_ages: unknown key; did you mean 'max_age'\?",
        ),
        ("alpha: 0.05", "at_least: 1 ms", "a gate has either at_most or at_least"),
        ("alpha: 0.05", "alpa: 0.05", r"gates.p95_latency.alpa: unknown key; did you mean 'alpha'\?"),
        ("alpha: 0.05", "alpha: 5", r"gates.p95_latency.alpha: expected less than 1, found the number 5"),
        (
            "[hardware]",
            "[real]",
            r"policy.yaml:2: environments\[0\]: unknown value 'real'; expected one of",
        ),
        ("[hardware]", "[]", r"policy.yaml:2: environments: expected at least 1 of them, found 0"),
        ("at_most: 12 ms", "at_most: .inf", r"policy.yaml:6: gates.p95_latency.at_most: expected a finite number"),
        ("0.98", ".nan", r"policy.yaml:7: gates.accuracy.at_least: expected a finite number, found nan"),
        ("policy: p\n", "policy: p\npolicy: q\n", r"policy.yaml:2: policy: this key is already given in line 1"),
        ("policy: p\n", "policy: p\nx-note: q\n", r"policy.yaml:2: x-note: unknown key"),
        ("max_age: 2 d", "max_age: 0 s", "must be longer than nothing"),
        ("1 h}", "long}", "soak.min_duration: 'long' is no duration"),
        ("required", "maybe", r"companions.firmware: unknown value 'maybe'; expected one of any, required, none"),
        ("required", "['sha256:xy']", "'sha256:xy' is no digest"),
        ("policy: p\n", "", r"policy.yaml:1: policy: missing: this key is needed"),
        ("policy: p\n", "policy: p\nallow_replay: true\n", "allow_replay cannot be true where hardware"),
        ("policy: p\n", "policy: p\ntimings: [icount]\n", "timings cannot have icount where hardware is asked for"),
    ],
)
def test_a_bad_policy_is_refused_with_file_line_and_path(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_policy(path)


@pytest.mark.parametrize("name", ["policy-virtual.yaml", "policy-hardware.yaml"])
def test_the_policies_of_the_farm_can_be_read(name: str) -> None:
    policy = load_policy(FARM / name)
    assert policy.gates
    assert not policy.allow_replay


def test_the_policy_for_hardware_asks_for_hardware_and_a_full_soak() -> None:
    policy = load_policy(FARM / "policy-hardware.yaml")
    assert policy.environments == {Environment.HARDWARE}
    assert policy.min_soak_s == 3600.0

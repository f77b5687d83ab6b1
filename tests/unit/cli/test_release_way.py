"""The commands from evidence to a decision, with the real gates, as a person would type them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import canary
from support.released import Shop, reference
from support.signed_evidence import sample

from pytest_edgehil.cli import evidence, release, rollout
from pytest_edgehil.errors import EdgehilError, ReleaseRefused
from pytest_edgehil.evidence import keys
from pytest_edgehil.evidence.trust import enroll
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.registry import parse
from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.record import GateUse
from pytest_edgehil.model.sample import Sample

POLICY = """\
policy: test
environments: [virtual]
board_classes: [pi5-8gb-hat2]
gates:
  p95_latency: {at_most: 12 ms, alpha: 0.05}
  peak_rss: {at_most: 180 MiB}
"""


def edgehil(*words: object) -> int:
    """As `cli.main` does it, with these verbs only."""
    import argparse

    top = argparse.ArgumentParser(prog="edgehil")
    verbs = top.add_subparsers(required=True)
    for module in (evidence, release, rollout):
        module.add(verbs)
    options = top.parse_args([str(one) for one in words])
    return int(options.run(options))


def real_gates() -> list[GateUse]:
    declared = (("p95_latency", ("12 ms",)), ("peak_rss", ("180 MiB",)))
    gates = [parse(name, args, {}, settings=GateSettings()) for name, args in declared]
    return [GateUse(name=one.name, arguments=one.arguments()) for one in gates]


def measured(shop: Shop, *, latency_ms: float) -> Sample:
    rng = np.random.default_rng(5)
    latencies = (latency_ms * 1e6 * rng.lognormal(0, 0.02, 600)).astype(np.int64)
    return sample(n=600).replace(latencies_ns=latencies, artifact_size_bytes=shop.artifact.size_bytes)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("EDGEHIL_STATE_DIR", str(tmp_path / "state"))
    made = Shop(tmp_path, policy=POLICY)
    made.bench.lab = keys.lab_signer()
    pem = made.bench.signers["pi5-v1"].public_key.keyval["public"]
    enroll("pi5-v1", kind=Environment.VIRTUAL, pem=pem)
    return made


def write(shop: Shop, *, latency_ms: float = 5.0) -> None:
    from pytest_edgehil.evidence.raw import evaluate_by_registry

    gates = real_gates()
    made = measured(shop, latency_ms=latency_ms)
    record = shop.bench.record(
        combo=(reference(shop.artifact),),
        gates=gates,
        measured=made,
        verdicts=[evaluate_by_registry(one, made) for one in gates],
    )
    shop.bench.write([record], evaluate=None)


def verify(shop: Shop, *words: str) -> int:
    return edgehil("evidence", "verify", shop.bench.directory, *words)


def publish(shop: Shop, *words: str) -> int:
    return edgehil(
        "release", "publish", shop.artifact.path, "--evidence", shop.bench.directory, "--policy", shop.policy_file,
        "--repo", shop.repo, "--keys", shop.keys, *words,
    )  # fmt: skip


def test_evidence_is_verified_with_the_real_gates(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop)
    assert verify(shop) == 0
    said = capsys.readouterr().out
    assert "1 statements verified" in said
    assert "p95_latency PASS, peak_rss PASS" in said
    assert verify(shop, "--json") == 0
    account = json.loads(capsys.readouterr().out)
    assert account["problems"] == []
    assert account["evidence"][0]["environment"] == "virtual"


def test_evidence_that_does_not_hold_is_told_with_every_problem(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop)
    for path in (shop.bench.directory / "raw").iterdir():
        path.unlink()
    assert verify(shop) == 2
    assert "not to be trusted, 1 problem:" in capsys.readouterr().out


def test_evidence_can_be_verified_as_of_a_time(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop)
    assert verify(shop, "--at", "2199-01-01T00:00:00Z") == 2
    assert "it expired" in capsys.readouterr().out


def test_a_trust_file_takes_the_place_of_the_default(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop)
    (shop.directory / "board.pem").write_text(shop.bench.signers["pi5-v1"].public_key.keyval["public"])
    trust = shop.directory / "trust.yaml"
    assert edgehil("evidence", "key") == 0
    shown = capsys.readouterr().out
    trust.write_text(f"trust: 1\nboards:\n  - {{board: pi5-v1, kind: virtual, path: board.pem}}\n{shown}")
    assert verify(shop, "--trust", str(trust)) == 0
    trust.write_text("trust: 1\n")
    assert verify(shop, "--trust", str(trust)) == 2


def test_a_release_goes_from_init_to_list(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop)
    where = ("--repo", shop.repo, "--keys", shop.keys)
    assert edgehil("release", "init", *where) == 0
    assert publish(shop) == 0
    assert "released digits 1.0.0 int8-static as models/digits-1.0.0-pi5-int8-static" in capsys.readouterr().out
    assert publish(shop) == 0
    assert "is released already" in capsys.readouterr().out
    assert edgehil("release", "refresh", *where) == 0
    capsys.readouterr()
    assert edgehil("release", "list", *where, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["released"]
    assert (row["seq"], row["artifact"]) == (1, shop.artifact.digest)


def test_a_release_without_a_pass_is_refused_with_its_reasons(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop, latency_ms=13)
    edgehil("release", "init", "--repo", shop.repo, "--keys", shop.keys)
    capsys.readouterr()
    with pytest.raises(ReleaseRefused) as refusal:
        publish(shop, "--json")
    assert any("gate p95_latency says FAIL" in one for one in refusal.value.reasons)
    account = json.loads(capsys.readouterr().out)
    assert account["released"] is False
    assert account["reasons"] == list(refusal.value.reasons)


# --- rollout -------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(canary.PLAN)
    return path


def decide(tmp_path: Path, plan: Path, lines: list[dict[str, Any]], *words: str) -> int:
    for one in lines:
        one["started_at"] = time.time() - 60
    canary.write(tmp_path / "telemetry", lines)
    return edgehil(
        "rollout", "decide", plan, "--telemetry", tmp_path / "telemetry", "--ledger", tmp_path / "ledger.jsonl", *words
    )


NAMED = ("--artifact", canary.NEW, "--baseline", canary.OLD)


@pytest.mark.parametrize(
    ("changes", "devices", "status", "word"),
    [({}, 4, 0, "promote"), ({}, 2, 10, "hold"), ({"shadow_disagreements": 20}, 4, 20, "roll back")],
)
def test_the_exit_status_says_what_was_decided(  # noqa: PLR0917 - pytest passes them by name
    shop: Shop,
    tmp_path: Path,
    plan: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    devices: int,
    status: int,
    word: str,
) -> None:
    assert decide(tmp_path, plan, canary.fleet(devices=devices, **changes), *NAMED) == status
    assert capsys.readouterr().out.startswith(f"{word}: sha256:aaaa")
    assert edgehil("rollout", "verify-ledger", tmp_path / "ledger.jsonl") == 0
    assert "1 decisions, every signature and the chain hold" in capsys.readouterr().out


def test_a_decision_as_json_names_the_head_that_the_ledger_must_keep(
    shop: Shop, tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decide(tmp_path, plan, canary.fleet(), *NAMED, "--actor", "jo", "--json")
    account = json.loads(capsys.readouterr().out)
    assert (account["decision"], account["actor"], account["weight_to"]) == ("promote", "jo", 50)
    ledger = tmp_path / "ledger.jsonl"
    assert edgehil("rollout", "verify-ledger", ledger, "--head", account["head"], "--json") == 0
    ledger.write_bytes(b"")
    with pytest.raises(EdgehilError, match="newer lines were cut off"):
        edgehil("rollout", "verify-ledger", ledger, "--head", account["head"])


def test_an_artifact_is_named_by_bundle_name_or_digest(shop: Shop) -> None:
    bundle, digest = shop.artifact.path, shop.artifact.digest
    places = (bundle.parent,)
    for word in (str(bundle), shop.artifact.manifest.name, digest[:16], digest):
        assert rollout._chosen("artifact", None, word, places, required=True) == digest
    assert rollout._chosen("artifact", None, digest, (), required=True) == digest, "a whole one need not be here"
    with pytest.raises(EdgehilError, match="contradicts the plan"):
        rollout._chosen("artifact", canary.OLD, str(bundle), (), required=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the plan names no artifact: give --artifact"),
        (("--artifact", "digits"), "--artifact: no artifact answers to 'digits' in artifacts"),
        (("--artifact", canary.OLD, "--baseline", canary.NEW), r"c0.jsonl:1: the canary c0 ran"),
    ],
)
def test_what_cannot_be_decided_is_one_line(
    shop: Shop, tmp_path: Path, plan: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(EdgehilError, match=message):
        decide(tmp_path, plan, canary.fleet(), *words)
    assert not (tmp_path / "ledger.jsonl").exists()


def test_an_option_must_not_contradict_the_plan(shop: Shop, tmp_path: Path, plan: Path) -> None:
    plan.write_text(canary.PLAN.replace("seq: 1", f"seq: 1\nartifact: {canary.NEW}"))
    with pytest.raises(EdgehilError, match="contradicts the plan"):
        decide(tmp_path, plan, canary.fleet(), "--artifact", canary.OLD)

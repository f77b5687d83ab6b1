"""Every row of the threat table that evidence alone must stop, each by carrying the attack out."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from support.signed_evidence import (
    NOW,
    P95,
    Bench,
    artifact,
    digest,
    evaluate,
    forge,
    new_board_signer,
    rewrite_index,
    sample,
)

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence.envelope import sign
from pytest_edgehil.evidence.index import INDEX_FILE
from pytest_edgehil.evidence.trust import BoardKey, Trust
from pytest_edgehil.evidence.verify import VerifiedEvidence, inspect_directory, verify_directory
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.verdict import Outcome


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(report_dir=tmp_path)
    made.write([made.record(), made.record()])
    return made


def verified(bench: Bench, *, trust: Trust | None = None, now: float = NOW) -> tuple[VerifiedEvidence, ...]:
    return verify_directory(bench.directory, trust or bench.trust, now=now, evaluate=evaluate)


def refuses(bench: Bench, message: str, **how: Any) -> None:
    with pytest.raises(EvidenceError, match=message):
        verified(bench, **how)


def first(bench: Bench) -> Path:
    return bench.envelope_files()[0]


def unchanged(_: dict[str, Any]) -> None:
    pass


def edit_json(path: Path, change: Any) -> None:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def test_honest_evidence_is_verified(bench: Bench) -> None:
    found = verified(bench)
    assert [one.statement.test for one in found] == [
        "suites/test_digits.py::test_1",
        "suites/test_digits.py::test_2",
    ]
    assert all(one.passed and one.environment is Environment.VIRTUAL and not one.replayed for one in found)


def test_an_altered_payload_is_refused(bench: Bench) -> None:
    def alter(value: dict[str, Any]) -> None:
        payload = base64.b64decode(value["payload"]).replace(b'"attempt":1', b'"attempt":2')
        value["payload"] = base64.b64encode(payload).decode()

    edit_json(first(bench), alter)
    rewrite_index(bench)
    refuses(bench, "not signed by a trusted lab key, or was altered")


@pytest.mark.parametrize("which", [0, 1])
def test_an_altered_signature_is_refused(bench: Bench, which: int) -> None:
    def alter(value: dict[str, Any]) -> None:
        signature = bytearray(base64.b64decode(value["signatures"][which]["sig"]))
        signature[-1] ^= 1
        value["signatures"][which]["sig"] = base64.b64encode(bytes(signature)).decode()

    edit_json(first(bench), alter)
    rewrite_index(bench)
    refuses(bench, "not signed by")


def test_a_signature_of_another_enrolled_board_is_refused(bench: Bench) -> None:
    forge(bench, first(bench), unchanged, signers=[bench.signers["pi5-h1"], bench.lab])
    refuses(bench, "claims board pi5-v1, but the key that signed is enrolled for pi5-h1")


def test_a_forged_board_whose_key_is_not_enrolled_is_refused(bench: Bench) -> None:
    forge(bench, first(bench), unchanged, signers=[new_board_signer(), bench.lab])
    refuses(bench, "not signed by an enrolled board key")


def test_a_missing_board_signature_is_refused(bench: Bench) -> None:
    edit_json(first(bench), lambda value: value["signatures"].pop(0))
    rewrite_index(bench)
    refuses(bench, "not signed by an enrolled board key")


def test_the_lab_signing_twice_is_no_board_signature(bench: Bench) -> None:
    forge(bench, first(bench), unchanged, signers=[bench.lab, bench.lab])
    refuses(bench, "not signed by an enrolled board key")


def test_two_boards_without_the_lab_are_refused(bench: Bench) -> None:
    forge(bench, first(bench), unchanged, signers=[bench.signers["pi5-v1"], bench.signers["pi5-h1"]])
    refuses(bench, "not signed by a trusted lab key")


def test_another_lab_is_refused(bench: Bench) -> None:
    forge(bench, first(bench), unchanged, signers=[bench.signers["pi5-v1"], CryptoSigner.generate_ed25519()])
    refuses(bench, "not signed by a trusted lab key")


def test_a_key_in_the_bundle_is_never_used(bench: Bench) -> None:
    stranger = CryptoSigner.generate_ed25519()
    forge(bench, first(bench), unchanged, signers=[bench.signers["pi5-v1"], stranger])

    def smuggle(value: dict[str, Any]) -> None:
        value["keys"] = [stranger.public_key.to_dict()]
        value["signatures"][1]["public"] = stranger.public_key.to_dict()

    edit_json(first(bench), smuggle)
    (bench.directory / "trust.yaml").write_text("trust: 1\n")
    rewrite_index(bench)
    refuses(bench, "not signed by a trusted lab key")


def test_more_than_one_subject_is_refused(bench: Bench) -> None:
    def add(value: dict[str, Any]) -> None:
        value["subject"].append({"name": "other", "digest": {"sha256": "00" * 32}})

    forge(bench, first(bench), add, signers=[bench.signers["pi5-v1"], bench.lab])
    refuses(bench, "2 subjects; evidence is about exactly one artifact")


def test_expired_evidence_is_refused(bench: Bench) -> None:
    assert verified(bench, now=NOW + 86_300)
    refuses(bench, "it expired", now=NOW + 86_400)


def test_evidence_from_the_future_is_refused(bench: Bench) -> None:
    refuses(bench, "in the future", now=NOW - 3600)


def test_a_virtual_board_that_claims_to_be_hardware_is_refused(bench: Bench) -> None:
    def rewrite(value: dict[str, Any]) -> None:
        value["predicate"]["environment"]["kind"] = "hardware"

    # the attacker holds the lab's key and the virtual board's: both signatures are good
    forge(bench, first(bench), rewrite, signers=[bench.signers["pi5-v1"], bench.lab])
    refuses(bench, "claims a hardware board, but the key that signed is enrolled as virtual")


def test_a_virtual_board_that_takes_the_name_of_a_hardware_board_is_refused(bench: Bench) -> None:
    def rewrite(value: dict[str, Any]) -> None:
        value["predicate"]["environment"] |= {"kind": "hardware", "boardId": "pi5-h1"}

    forge(bench, first(bench), rewrite, signers=[bench.signers["pi5-v1"], bench.lab])
    refuses(bench, "claims board pi5-h1, but the key that signed is enrolled for pi5-v1")


def test_a_board_of_another_class_than_enrolled_is_refused(bench: Bench) -> None:
    boards = tuple(dataclasses.replace(one, cls="pi5-4gb") for one in bench.trust.boards)
    refuses(bench, "enrolled as pi5-4gb", trust=dataclasses.replace(bench.trust, boards=boards))


def test_replayed_samples_are_known_as_such_whatever_the_statement_says(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)

    def hide(value: dict[str, Any]) -> None:
        value["predicate"]["environment"]["backend"] = "onnxruntime"

    bench.write([bench.record(measured=sample(replayed=True), forge=hide)])
    assert [one.replayed for one in verified(bench)] == [True]


def test_a_pass_that_the_raw_samples_do_not_bear_out_is_refused(bench: Bench, tmp_path: Path) -> None:
    other = Bench(report_dir=tmp_path / "slow", lab=bench.lab, signers=bench.signers)
    other.write([other.record(measured=sample(latency_ms=14))])

    def claim_pass(value: dict[str, Any]) -> None:
        gate = value["predicate"]["gates"][0]
        assert gate["outcome"] == "FAIL"
        gate["outcome"] = "PASS"
        value["predicate"] |= {"passedTests": ["p95_latency", "accuracy"], "failedTests": []}

    # lab and board collude on the claim, and the raw samples are those that were measured
    forge(other, first(other), claim_pass, signers=[other.signers["pi5-v1"], other.lab])
    refuses(other, r"gate p95_latency: it claims PASS, the raw results say FAIL \(observed 1.4e\+07 ns")


def test_a_better_number_than_the_raw_samples_give_is_refused(bench: Bench) -> None:
    def improve(value: dict[str, Any]) -> None:
        value["predicate"]["gates"][0]["measured"] = 1_000_000

    forge(bench, first(bench), improve, signers=[bench.signers["pi5-v1"], bench.lab])
    refuses(bench, "it claims observed 1e.06 ns, the raw results say 5e.06")


def test_more_samples_than_there_are_is_refused(bench: Bench) -> None:
    def pad(value: dict[str, Any]) -> None:
        value["predicate"]["gates"][0]["n"] = 1_000_000

    forge(bench, first(bench), pad, signers=[bench.signers["pi5-v1"], bench.lab])
    refuses(bench, "it claims n = 1000000")


def test_missing_raw_samples_are_refused(bench: Bench) -> None:
    shutil.rmtree(bench.directory / "raw")
    refuses(bench, "raw results 'samples' .* are missing")


def test_altered_raw_samples_are_refused(bench: Bench) -> None:
    for path in (bench.directory / "raw").iterdir():
        path.write_bytes(path.read_bytes().replace(b"5000000", b"4000000"))
    refuses(bench, "its digest is .* the statement says")


def test_a_statement_without_raw_samples_is_refused(bench: Bench) -> None:
    def drop(value: dict[str, Any]) -> None:
        value["predicate"]["rawResults"] = []

    forge(bench, first(bench), drop, signers=[bench.signers["pi5-v1"], bench.lab])
    refuses(bench, "names no raw samples")


def test_an_envelope_that_was_left_out_is_noticed(bench: Bench) -> None:
    first(bench).unlink()
    refuses(bench, "the signed index lists it, but it was left out")


def test_an_envelope_that_was_left_out_with_its_line_in_the_index_is_noticed(bench: Bench) -> None:
    rewrite_index(bench, signer=CryptoSigner.generate_ed25519(), drop=[first(bench).name])
    first(bench).unlink()
    refuses(bench, "the run index is not signed by a trusted lab key, or was altered")


def test_a_board_cannot_sign_the_index(bench: Bench) -> None:
    rewrite_index(bench, signer=bench.signers["pi5-v1"])
    refuses(bench, "the run index is not signed by a trusted lab key")


def test_a_missing_index_is_noticed(bench: Bench) -> None:
    (bench.directory / INDEX_FILE).unlink()
    refuses(bench, "index.dsse.json: it cannot be read")


def test_an_envelope_of_another_run_is_noticed(bench: Bench, tmp_path: Path) -> None:
    run = dataclasses.replace(bench.run, run_id="run-0")
    other = Bench(report_dir=tmp_path / "other", lab=bench.lab, signers=bench.signers, run=run, count=10)
    other.write([other.record()])
    shutil.copytree(other.directory / "raw", bench.directory / "raw", dirs_exist_ok=True)
    shutil.copy(first(other), bench.directory / "0009-more.dsse.json")
    refuses(bench, "0009-more.dsse.json: the signed index does not list it")
    (bench.directory / "0009-more.dsse.json").unlink()
    shutil.copy(first(other), first(bench))
    refuses(bench, "names another digest|belongs to run run-0")


def test_a_nonce_that_appears_twice_is_noticed(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)
    bench.write([bench.record(nonce="ab" * 16), bench.record(nonce="ab" * 16)])
    refuses(bench, "repeats the nonce")


def test_an_index_is_no_statement_and_a_statement_no_index(bench: Bench) -> None:
    index = bench.directory / INDEX_FILE
    shutil.copy(index, bench.directory / "0008-index.dsse.json")
    refuses(bench, "the payload type is")
    (bench.directory / "0008-index.dsse.json").unlink()
    index.write_bytes(sign(b"{}", [bench.lab]).to_bytes())
    refuses(bench, "the payload type is")


def test_every_problem_is_reported_not_the_first_only(bench: Bench) -> None:
    for path in bench.envelope_files():
        forge(bench, path, unchanged, signers=[bench.lab])
    found = inspect_directory(bench.directory, bench.trust, now=NOW, evaluate=evaluate)
    assert len(found.problems) == 2
    assert found.evidence == ()


def test_a_directory_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="there is no such directory"):
        verify_directory(tmp_path / "none", Trust(lab_keys=(), boards=()), now=NOW, evaluate=evaluate)


# --- what the controller refuses to seal ---------------------------------------------------------------


def test_the_controller_refuses_a_statement_about_an_artifact_that_was_not_on_the_board(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)
    record = dataclasses.replace(bench.record(), combo=(artifact(of=digest("other")),))
    with pytest.raises(EvidenceError, match="which was not on the board"):
        bench.write([record])
    assert not bench.directory.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonce": "cd" * 16}, "statement's nonce"),
        ({"nodeid": "suites/x.py::other"}, "statement's test"),
        ({"attempt": 2}, "statement's attempt"),
        ({"lease_token": 8}, "statement's lease token"),
        ({"combo": (artifact(), artifact(Track.FIRMWARE, "edge-os"))}, "statement's companions"),
    ],
)
def test_the_controller_refuses_a_statement_that_differs_from_its_record(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    bench = Bench(report_dir=tmp_path)
    with pytest.raises(EvidenceError, match=message):
        bench.write([dataclasses.replace(bench.record(), **change)])


def test_the_controller_refuses_a_worker_that_changed_a_verdict(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)
    slow = sample(latency_ms=14)
    verdict = dataclasses.replace(evaluate(P95, slow), outcome=Outcome.PASS)
    record = bench.record(gates=(P95,), measured=slow, verdicts=(verdict,))
    with pytest.raises(EvidenceError, match=r"test_1: gate p95_latency: it claims PASS"):
        bench.write([record])


def test_the_controller_refuses_a_board_that_is_not_enrolled(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)
    record = bench.record(signer=new_board_signer())
    with pytest.raises(EvidenceError, match=r"test_1: it is not signed by an enrolled board key"):
        bench.write([record])


def test_the_controller_refuses_to_seal_with_a_key_that_nobody_trusts(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)
    with pytest.raises(EvidenceError, match=r"is not in the trust, .* 'edgehil evidence key'"):
        bench.write([bench.record()], lab_signer=CryptoSigner.generate_ed25519())


def test_the_controller_refuses_samples_that_were_changed_after_the_board_signed(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)
    record = bench.record()
    (tmp_path / record.files["samples"]).write_text("{}")
    with pytest.raises(EvidenceError, match="is not what the board's statement names"):
        bench.write([record])


def test_a_refused_run_leaves_the_old_evidence_as_it_was(bench: Bench) -> None:
    before = sorted(one.name for one in bench.directory.rglob("*"))
    with pytest.raises(EvidenceError):
        bench.write([bench.record(signer=new_board_signer())])
    assert sorted(one.name for one in bench.directory.rglob("*")) == before
    assert verified(bench)


def test_writing_again_replaces_the_old_evidence(bench: Bench) -> None:
    bench.write([bench.record()])
    assert len(verified(bench)) == 1
    assert [one.name for one in bench.report_dir.iterdir() if one.name.startswith(".")] == []


def test_evidence_is_not_written_over_other_files(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)
    bench.directory.mkdir()
    (bench.directory / "thesis.txt").write_text("dear to somebody")
    with pytest.raises(EvidenceError, match="holds other files"):
        bench.write([bench.record()])


def test_attempts_without_evidence_are_in_the_index(tmp_path: Path) -> None:
    bench = Bench(report_dir=tmp_path)
    unsigned = dataclasses.replace(bench.record(), attestations=())
    written = bench.write([bench.record(), unsigned])
    assert written.envelopes == 1
    assert written.unsigned == (unsigned.nodeid,)
    index = inspect_directory(bench.directory, bench.trust, now=NOW, evaluate=evaluate).index
    assert index is not None
    assert [len(one.envelopes) for one in index.records] == [1, 0]


def test_a_lab_key_is_never_a_board_key(bench: Bench) -> None:
    from pytest_edgehil.errors import ConfigError

    boards = (BoardKey(board_id="pi5-v1", kind=Environment.VIRTUAL, key=bench.lab.public_key),)
    with pytest.raises(ConfigError, match="one key has one role"):
        Trust(lab_keys=(bench.lab.public_key,), boards=boards)

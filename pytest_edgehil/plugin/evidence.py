"""Where the plugin meets `pytest_edgehil.evidence`.

The worker, which has the board in its hands, writes the raw results and has the board sign a statement about each
artifact (`attest`). The controller, which has the lab's key, checks all of that again and seals it (`seal`).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.record import Attestation, TestRecord

if TYPE_CHECKING:
    from pytest_edgehil.evidence.statement import RunInfo
    from pytest_edgehil.evidence.trust import Trust
    from pytest_edgehil.evidence.write import Written
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.plugin.attempt import Attempt
    from pytest_edgehil.plugin.options import Options
    from pytest_edgehil.plugin.run import Run

EXPIRES_AFTER_S = 30 * 86400.0


def run_info(options: Options, *, run_id: str, started_at: float) -> RunInfo:
    """What all statements of the run share; the same in workers and controller."""
    from pytest_edgehil.evidence.canonical import digest_of
    from pytest_edgehil.evidence.statement import RunInfo

    return RunInfo(
        run_id=run_id,
        policy_digest=None if options.policy is None else digest_of(options.policy.read_bytes()),
        started_at=started_at,
        expires_after_s=EXPIRES_AFTER_S,
        tool_version=version("pytest-edgehil"),
        source_revision=options.source_revision,
    )


def keep(attempt: Attempt, *, report: Path) -> None:
    """Worker: write the raw results of an attempt whose board broke when its verdicts were known; nobody signs them."""
    from pytest_edgehil.evidence import raw

    path = report / "samples" / f"{attempt.slug}.json.gz"
    raw.write_sample(path, attempt.sample, attempt.record().gates)
    attempt.files["samples"] = str(path.relative_to(report))


def attest(attempt: Attempt, info: RunInfo, *, report: Path) -> None:
    """Worker: write the raw results, and have the board sign a statement about each artifact of the combo.

    Args:
        report: the directory that the record's file names are relative to.
    """
    from pytest_edgehil.evidence import keys, raw, statement

    assert attempt.dut is not None
    sample = attempt.sample
    draft = attempt.record()
    path = report / "samples" / f"{attempt.slug}.json.gz"
    digest = raw.write_sample(path, sample, draft.gates)
    attempt.files["samples"] = str(path.relative_to(report))
    draft = attempt.record()
    signed = []
    for one in draft.combo:
        payload = statement.build_statement(draft, run=info, raw_digests={"samples": digest}, subject=Track(one.track))
        if payload is None:
            continue
        signature, pem = attempt.dut.attest(payload)
        signed.append(
            Attestation(
                payload=base64.b64encode(payload).decode("ascii"), key_id=keys.key_id(pem), signature=signature.hex()
            )
        )
    attempt.attestations = tuple(signed)


def seal(options: Options, run: Run, records: Sequence[TestRecord], *, lab: Lab) -> Written:
    """Controller: check what the boards signed, judge it again, and seal it with the lab's key.

    Raises:
        EvidenceError: something does not verify; nothing is written then.
    """
    from pytest_edgehil.evidence.keys import lab_signer
    from pytest_edgehil.evidence.write import write_evidence

    assert options.report is not None
    _enroll_boards(lab, records)
    return write_evidence(
        options.report / "evidence",
        records,
        run=run_info(options, run_id=run.run_id, started_at=run.started_at),
        lab_signer=lab_signer(),
        trust=trust_of(options),
        report_dir=options.report,
        now=time.time(),
    )


def trust_of(options: Options) -> Trust:
    """The keys that this run believes.

    Raises:
        ConfigError: the trust file cannot be read.
    """
    from pytest_edgehil.evidence.trust import default_trust, load_trust

    return default_trust() if options.trust is None else load_trust(options.trust)


def _enroll_boards(lab: Lab, records: Sequence[TestRecord]) -> None:
    """Make the keys of boards that this host has made itself part of the default trust: as virtual or emulated ones.

    The key of any other board is enrolled by a person, in a trust file. A lab file is a claim, and whoever could write
    "hardware" there could sign anything with a key of his own.
    """
    from pytest_edgehil.evidence.trust import enroll
    from pytest_edgehil.virtual.farm import board_directory, identity_key  # emulated boards keep theirs there, too

    used = {record.board.id for record in records if record.board is not None and record.attestations}
    for board in lab.boards:
        ours = board.environment is Environment.VIRTUAL or board.emulated is not None
        if board.id in used and ours:
            key = identity_key(board_directory(lab.state_dir, board.id))
            enroll(board.id, kind=board.environment, pem=key.read_bytes(), cls=board.cls)

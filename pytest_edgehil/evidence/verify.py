"""Checking evidence: what a statement claims, and what of it holds.

Order of checks, each on what the one before has proven: the lab's signature; the board's signature, by a key of
another pool; the claimed board and kind against the *enrolment* of that key; times; raw results by digest; every
verdict judged again from them; the held-out sets and baselines as the raw results name them. Then, over the whole
directory: the signed index against the files, one run, and no nonce twice.

What this cannot show: a lab operator who holds a real board and the lab's key can let the board measure something
else, or leave a whole run out. See docs for the threat table.

`inspect_directory` asks, `verify_directory` enforces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence import canonical, raw
from pytest_edgehil.evidence.envelope import open_envelope
from pytest_edgehil.evidence.index import INDEX_FILE, RunIndex, read_index
from pytest_edgehil.evidence.statement import Claim, Statement, read_statement
from pytest_edgehil.evidence.trust import BoardKey, Trust
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.series import HeldOut
from pytest_edgehil.model.verdict import Outcome, Verdict

CLOCK_SKEW_S = 300.0
"""How far in the future a statement may lie: clocks of two hosts differ."""

RAW_DIRECTORY = "raw"
ENVELOPE_PATTERN = "*.dsse.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvidence:
    """A statement of which every claim was checked.

    Args:
        path: the envelope file.
        digest: ``sha256:<hex>`` of the envelope file.
        statement: what it says.
        environment: the kind of board, from the enrolment of the key that signed.
        replayed: the samples were played back from a recording.
        sample: the raw results.
        verdicts: judged again from the raw results; they agree with the claims.
    """

    path: Path
    digest: str
    statement: Statement
    environment: Environment
    board_key_id: str
    lab_key_id: str
    replayed: bool
    sample: Sample
    verdicts: tuple[Verdict, ...]

    @property
    def subject(self) -> str:
        """Digest of the artifact that it is about."""
        return self.statement.subject

    @property
    def companions(self) -> dict[Track, str]:
        """Track → digest of what else was on the board."""
        return {one.track: one.digest for one in self.statement.companions}

    @property
    def passed(self) -> bool:
        """Does every gate say PASS?"""
        return all(one.outcome is Outcome.PASS for one in self.verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What an evidence directory holds.

    Args:
        index: None if it is missing or not to be trusted.
        evidence: what holds.
        problems: what does not, one line each, naming the file.
    """

    directory: Path
    index: RunIndex | None
    evidence: tuple[VerifiedEvidence, ...] = ()
    problems: tuple[str, ...] = field(default=())


def verify_directory(
    directory: Path, trust: Trust, *, now: float, evaluate: raw.Evaluate | None = None
) -> tuple[VerifiedEvidence, ...]:
    """Every statement of an evidence directory, all verified.

    Raises:
        EvidenceError: one thing does not hold; names the file and the reason.
    """
    return require_sound(inspect_directory(directory, trust, now=now, evaluate=evaluate)).evidence


def require_sound(inspection: Inspection) -> Inspection:
    """The inspection itself if it found no problem.

    Raises:
        EvidenceError: the first problem, and how many more there are.
    """
    if inspection.problems:
        more = len(inspection.problems) - 1
        tail = f" (and {more} more: run 'edgehil evidence verify {inspection.directory}')" if more else ""
        raise EvidenceError(f"{inspection.problems[0]}{tail}")
    return inspection


def inspect_directory(directory: Path, trust: Trust, *, now: float, evaluate: raw.Evaluate | None = None) -> Inspection:
    """Check everything in an evidence directory.

    Args:
        directory: as `write.write_evidence` made it.
        trust: the keys that count.
        now: Unix time, seconds.
        evaluate: how a gate judges; default through `gates.registry`.
    """
    if not directory.is_dir():
        return Inspection(directory=directory, index=None, problems=(f"{directory}: there is no such directory",))
    problems: list[str] = []
    evidence: list[VerifiedEvidence] = []
    index: RunIndex | None = None
    try:
        index = read_index(_read(directory / INDEX_FILE), trust, what=str(directory / INDEX_FILE))
    except EvidenceError as problem:
        problems.append(str(problem))
    for path in sorted(directory.glob(ENVELOPE_PATTERN)):
        if path.name == INDEX_FILE:
            continue
        try:
            evidence.append(check_envelope(path, trust, now=now, evaluate=evaluate))
        except EvidenceError as problem:
            problems.append(str(problem))
    if index is not None:
        problems += _against_index(directory, index, evidence)
    problems += _replays(evidence)
    return Inspection(directory=directory, index=index, evidence=tuple(evidence), problems=tuple(problems))


def check_envelope(path: Path, trust: Trust, *, now: float, evaluate: raw.Evaluate | None = None) -> VerifiedEvidence:
    """Verify one envelope; its raw results lie in ``raw/`` beside it.

    Raises:
        EvidenceError: what does not hold.
    """
    what = str(path)
    data = _read(path)
    envelope = open_envelope(data, what=what)
    # one role at a time: two boards must never add up to "lab and board"
    lab_key = envelope.signed_by(trust.lab_keys)
    if lab_key is None:
        raise EvidenceError(f"{what}: it is not signed by a trusted lab key, or was altered")
    board_key = envelope.signed_by(one.key for one in trust.boards)
    if board_key is None:
        raise EvidenceError(
            f"{what}: it is not signed by an enrolled board key; enrol the board's identity key in the trust file"
        )
    statement = read_statement(envelope.payload, what=what)
    enrolled = enrolment(statement, trust, board_key.keyid, what)
    _check_times(statement, now, what)
    sample = _raw_sample(statement, path.parent, what)
    _check_heldout(statement, sample, what)
    if statement.timing is not sample.timing:
        raise EvidenceError(
            f"{what}: it claims that the board's timing is {statement.timing}, its raw results say {sample.timing}"
        )
    verdicts = raw.recompute(sample, (one.use for one in statement.claims), evaluate=evaluate)
    for claim, verdict in zip(statement.claims, verdicts, strict=True):
        difference = disagreement(claim, verdict)
        if difference:
            raise EvidenceError(f"{what}: gate {claim.use.name}: {difference}")
    return VerifiedEvidence(
        path=path,
        digest=canonical.digest_of(data),
        statement=statement,
        environment=enrolled.kind,
        board_key_id=board_key.keyid,
        lab_key_id=lab_key.keyid,
        replayed=sample.replayed or _says_replay(statement, sample),
        sample=sample,
        verdicts=verdicts,
    )


def disagreement(claim: Claim, verdict: Verdict) -> str | None:
    """How a claim differs from the verdict that its raw results lead to; None if they agree."""
    said = claim.verdict
    if said.outcome is not verdict.outcome:
        return (
            f"it claims {said.outcome.value}, the raw results say {verdict.outcome.value} "
            f"(observed {_show(verdict.observed)} {verdict.unit}, limit {_show(verdict.budget)})"
        )
    if (said.gate, said.unit, said.n, said.better) != (verdict.gate, verdict.unit, verdict.n, verdict.better):
        return f"it claims n = {said.n} in {said.unit}, the raw results say n = {verdict.n} in {verdict.unit}"
    pairs = [("observed", said.observed, verdict.observed), ("limit", said.budget, verdict.budget)]
    if (said.interval is None) != (verdict.interval is None):
        return f"it claims the interval {said.interval}, the raw results say {verdict.interval}"
    if said.interval is not None and verdict.interval is not None:
        pairs += [("lower bound", said.interval[0], verdict.interval[0])]
        pairs += [("upper bound", said.interval[1], verdict.interval[1])]
    for name, claimed, found in pairs:
        if not _same(claimed, found):
            return f"it claims {name} {_show(claimed)} {said.unit}, the raw results say {_show(found)}"
    return None


def raw_file(directory: Path, digest: str) -> Path | None:
    """The file with these raw results, plain or gzipped; None if it is missing."""
    name = canonical.hex_of(digest)
    for suffix in (".json", ".json.gz"):
        path = directory / RAW_DIRECTORY / f"{name}{suffix}"
        if path.is_file():
            return path
    return None


def enrolment(statement: Statement, trust: Trust, key_id: str, what: str) -> BoardKey:
    """The enrolment of the key that signed, which must be for the board that the statement claims.

    Raises:
        EvidenceError: it is enrolled for another board, kind or class.
    """
    enrolled = trust.board_key(key_id)
    assert enrolled is not None  # it was found among these keys
    if statement.board_id != enrolled.board_id:
        raise EvidenceError(
            f"{what}: it claims board {statement.board_id}, but the key that signed is enrolled for {enrolled.board_id}"
        )
    if statement.environment is not enrolled.kind:
        raise EvidenceError(
            f"{what}: it claims a {statement.environment} board, but the key that signed is enrolled as {enrolled.kind}"
        )
    if enrolled.cls is not None and statement.board_class != enrolled.cls:
        raise EvidenceError(
            f"{what}: it claims class {statement.board_class}, but board {enrolled.board_id} is enrolled "
            f"as {enrolled.cls}"
        )
    return enrolled


def _check_times(statement: Statement, now: float, what: str) -> None:
    if not statement.started_at <= statement.finished_at <= statement.expires_at:
        raise EvidenceError(f"{what}: its times are out of order: started, finished, expires")
    if statement.finished_at > now + CLOCK_SKEW_S:
        raise EvidenceError(
            f"{what}: it was finished {statement.finished_at - now:.0f} s in the future; check the clocks"
        )
    if now >= statement.expires_at:
        raise EvidenceError(f"{what}: it expired {now - statement.expires_at:.0f} s ago; run the tests again")


def _raw_sample(statement: Statement, directory: Path, what: str) -> Sample:
    samples: Mapping[str, str] = statement.raw_results
    if "samples" not in samples:
        raise EvidenceError(f"{what}: it names no raw samples, so that nothing can be judged again")
    found: bytes | None = None
    for name, digest in samples.items():
        path = raw_file(directory, digest)
        if path is None:
            raise EvidenceError(
                f"{what}: the raw results {name!r} ({digest[:19]}…) are missing in {directory / RAW_DIRECTORY}"
            )
        data = _read(path)
        if canonical.digest_of(data) != digest:
            raise EvidenceError(f"{path}: its digest is {canonical.digest_of(data)}, the statement says {digest}")
        if name == "samples":
            found = data
    assert found is not None
    return raw.sample_from_bytes(found, what=f"{what}: samples")


def _check_heldout(statement: Statement, sample: Sample, what: str) -> None:
    """The sets and baselines that are claimed must be those that the raw results were made with.

    Whether the bytes of that name are those of that digest, only who has the files can say.
    """
    if (statement.heldout, statement.order_seed) != (sample.heldout, sample.order_seed):
        raise EvidenceError(
            f"{what}: it claims the held-out sets {_sets(statement.heldout, statement.order_seed)}, "
            f"the raw results say {_sets(sample.heldout, sample.order_seed)}"
        )


def _sets(sets: tuple[HeldOut, ...], order_seed: int | None) -> str:
    told = [
        f"{one.name} ({one.digest[:19]}…, {one.items} of {one.of}"
        + (f", against {one.baseline} {one.baseline_digest[:19]}…)" if one.baseline else ")")
        for one in sets
    ]
    order = "" if order_seed is None else f" in the order of seed {order_seed}"
    return f"{', '.join(told) or 'none'}{order}"


def _says_replay(statement: Statement, sample: Sample) -> bool:
    runtime = sample.conditions.runtime if sample.conditions is not None else ""
    return any(one.startswith("replay") for one in (statement.backend or "", runtime))


def _against_index(directory: Path, index: RunIndex, evidence: list[VerifiedEvidence]) -> list[str]:
    problems = []
    listed = {one.file: one.digest for one in index.envelopes}
    present = {one.name for one in directory.glob(ENVELOPE_PATTERN)} - {INDEX_FILE}
    problems += [
        f"{directory / name}: the signed index lists it, but it was left out" for name in listed if name not in present
    ]
    problems += [f"{directory / name}: the signed index does not list it" for name in sorted(present - set(listed))]
    if len(listed) != len(index.envelopes):
        problems.append(f"{directory / INDEX_FILE}: it lists a file twice")
    tests = {one.file: record for record in index.records for one in record.envelopes}
    for one in evidence:
        statement = one.statement
        record = tests.get(one.path.name)
        if record is None:
            continue
        if listed[one.path.name] != one.digest:
            problems.append(f"{one.path}: the signed index names another digest for it")
        if statement.run_id != index.run_id:
            problems.append(f"{one.path}: it belongs to run {statement.run_id}, the index to {index.run_id}")
        if (statement.test, statement.attempt) != (record.test, record.attempt):
            problems.append(f"{one.path}: it is about {statement.test}, the index says {record.test}")
    return problems


def _replays(evidence: list[VerifiedEvidence]) -> list[str]:
    seen: dict[str, Path] = {}
    problems = []
    for one in evidence:
        first = seen.setdefault(one.statement.nonce, one.path)
        if first != one.path:
            problems.append(f"{one.path}: it repeats the nonce of {first.name}; a nonce is used once")
    return problems


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise EvidenceError(f"{path}: it cannot be read: {problem.strerror}") from problem


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    # another numpy or scipy may differ in the last digits
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)


def _show(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"

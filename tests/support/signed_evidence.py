"""Evidence as a lab would make it, with parts that a test can forge: keys, records, statements, envelopes."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from pytest_edgehil.evidence import canonical
from pytest_edgehil.evidence.envelope import open_envelope, pae, sign
from pytest_edgehil.evidence.index import INDEX_FILE, INDEX_PAYLOAD_TYPE
from pytest_edgehil.evidence.raw import write_sample
from pytest_edgehil.evidence.statement import RunInfo, build_statement
from pytest_edgehil.evidence.trust import BoardKey, Trust
from pytest_edgehil.evidence.write import Written, write_evidence
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.record import ArtifactRef, Attestation, BoardRef, GateUse, Status, TestRecord
from pytest_edgehil.model.sample import ColdStart, Conditions, Sample
from pytest_edgehil.model.verdict import Outcome, Verdict

NOW = 1_800_000_000.0
"""The time of all tests here."""

POLICY_DIGEST = "sha256:" + "90" * 32


def digest(word: str) -> str:
    return canonical.digest_of(word.encode())


def new_board_signer() -> CryptoSigner:
    """What a board holds: ECDSA P-256, as rpi-fw-crypto does."""
    return CryptoSigner(ec.generate_private_key(ec.SECP256R1()))


def evaluate(use: GateUse, sample: Sample) -> Verdict:
    """Gates small enough to see through; the real ones are judged in the registry's own test."""
    if use.name == "p95_latency":
        limit = float(use.arguments["budget_ns"])
        observed = float(np.percentile(sample.latencies_ns, 95)) if sample.n else None
        unit, n, better = "ns", sample.n, "lower"
    elif use.name == "accuracy":
        assert sample.agreed is not None
        limit, observed = float(use.arguments["agreement"]), float(np.mean(sample.agreed))
        unit, n, better = "fraction", int(sample.agreed.size), "higher"
    elif use.name == "drop":
        assert sample.agreed is not None
        limit, observed = float(use.arguments["most"]), 1.0 - float(np.mean(sample.agreed))
        unit, n, better = "fraction", int(sample.agreed.size), "lower"
    elif use.name == "soak":
        limit, observed = float(use.arguments["duration_s"]), sample.duration_s
        unit, n, better = "s", sample.n, "higher"
    else:
        raise KeyError(use.name)
    if observed is None:
        outcome = Outcome.INCONCLUSIVE
    else:
        good = observed <= limit if better == "lower" else observed >= limit
        outcome = Outcome.PASS if good else Outcome.FAIL
    return Verdict(
        gate=use.name,
        outcome=outcome,
        unit=unit,
        n=n,
        reason="as observed",
        observed=observed,
        budget=limit,
        better=better,
        interval=None if observed is None else (observed * 0.9, observed * 1.1),
        not_checked=("autocorrelation",),
    )


def sample(*, latency_ms: float = 5.0, n: int = 200, replayed: bool = False, duration_s: float = 10.0) -> Sample:
    latencies = np.full(n, latency_ms * 1e6, dtype=np.int64)
    return Sample(
        latencies_ns=latencies,
        starts_ns=np.arange(n, dtype=np.int64) * 10_000_000 + 2**53 + 1,  # a board that is up for 105 days
        agreed=np.ones(n, dtype=np.bool_),
        cold_starts=(ColdStart(load_ns=1_000_000, rss_before_bytes=1, rss_after_bytes=2, peak_rss_bytes=3),),
        peak_rss_bytes=10 * 2**20,
        artifact_size_bytes=None,
        duration_s=duration_s,
        conditions=Conditions(
            runtime="replay" if replayed else "onnxruntime",
            runtime_version="1.0",
            page_size_bytes=4096,
            clock_cost_ns=50,
            throttled_before=0,
            throttled_after=0,
            replayed=replayed,
            steady_state_s=0.0,
        ),
    )


def artifact(track: Track = Track.MODEL, name: str = "digits", *, of: str | None = None) -> ArtifactRef:
    return ArtifactRef(
        track=track.value,
        label=f"{name} 1.0.0",
        name=name,
        version="1.0.0",
        quantisation="int8-static" if track is Track.MODEL else "none",
        digest=of or digest(name),
        size_bytes=1000,
    )


P95 = GateUse(name="p95_latency", arguments={"budget_ns": 12_000_000, "alpha": 0.05})
ACCURACY = GateUse(name="accuracy", arguments={"agreement": 0.98, "alpha": 0.05})
SOAK = GateUse(name="soak", arguments={"duration_s": 5.0})


@dataclasses.dataclass(kw_only=True)
class Bench:
    """A lab with one virtual and one hardware board, and a report directory.

    ``signers`` holds the board's private keys, ``trust`` their enrolment.
    """

    report_dir: Path
    lab: CryptoSigner = dataclasses.field(default_factory=CryptoSigner.generate_ed25519)
    signers: dict[str, CryptoSigner] = dataclasses.field(
        default_factory=lambda: {"pi5-v1": new_board_signer(), "pi5-h1": new_board_signer()}
    )
    run: RunInfo = dataclasses.field(
        default_factory=lambda: RunInfo(
            run_id="run-1",
            policy_digest=POLICY_DIGEST,
            started_at=NOW - 120,
            expires_after_s=86400.0,
            tool_version="0.1.0",
        )
    )
    count: int = 0
    now: float = NOW

    @property
    def directory(self) -> Path:
        return self.report_dir / "evidence"

    @property
    def trust(self) -> Trust:
        return Trust(
            lab_keys=(self.lab.public_key,),
            boards=tuple(
                BoardKey(
                    board_id=board_id,
                    kind=Environment.VIRTUAL if board_id.startswith("pi5-v") else Environment.HARDWARE,
                    key=signer.public_key,
                )
                for board_id, signer in self.signers.items()
            ),
        )

    def record(
        self,
        *,
        board_id: str = "pi5-v1",
        environment: Environment = Environment.VIRTUAL,
        cls: str = "pi5-8gb-hat2",
        combo: Sequence[ArtifactRef] | None = None,
        gates: Sequence[GateUse] = (P95, ACCURACY),
        measured: Sample | None = None,
        verdicts: Sequence[Verdict] | None = None,
        status: Status = Status.PASSED,
        subject: Track | None = None,
        subjects: Sequence[Track | None] = (None,),
        forge: Callable[[dict[str, Any]], None] | None = None,
        signer: CryptoSigner | None = None,
        nonce: str | None = None,
        **changes: Any,
    ) -> TestRecord:
        """A record whose board signed what `forge` made of the true statement."""
        self.count += 1
        measured = measured or sample()
        file = f"samples/{self.count}.json"
        raw_digest = write_sample(self.report_dir / file, measured, tuple(gates))
        record = TestRecord(
            nodeid=f"suites/test_digits.py::test_{self.count}",
            status=status,
            started_at=self.now - 60,
            duration_s=12.0,
            board=BoardRef(
                id=board_id,
                cls=cls,
                environment=environment,
                serial="1000000000000001",
                hardware_model="Raspberry Pi 5 Model B Rev 1.0",
                runtime="replay" if measured.replayed else "onnxruntime",
                timing=measured.timing,
            ),
            combo=tuple(combo) if combo is not None else (artifact(),),
            gates=tuple(gates),
            heldout=measured.heldout,
            order_seed=measured.order_seed,
            verdicts=tuple(verdicts) if verdicts is not None else tuple(evaluate(one, measured) for one in gates),
            files={"samples": file},
            lease_token=7,
            nonce=nonce or f"{self.count:032x}",
        )
        record = dataclasses.replace(record, **changes)
        attestations = []
        for track in subjects:
            payload = build_statement(record, run=self.run, raw_digests={"samples": raw_digest}, subject=track)
            assert payload is not None
            if forge is not None:
                value = json.loads(payload)
                forge(value)
                payload = canonical.to_bytes(value)
            attestations.append(attest(payload, signer or self.signers[board_id]))
        return dataclasses.replace(record, attestations=tuple(attestations))

    def write(self, records: Sequence[TestRecord], **changes: Any) -> Written:
        arguments: dict[str, Any] = {
            "run": self.run,
            "lab_signer": self.lab,
            "trust": self.trust,
            "report_dir": self.report_dir,
            "now": self.now,
            "evaluate": evaluate,
        }
        return write_evidence(self.directory, records, **{**arguments, **changes})

    def envelope_files(self) -> list[Path]:
        return sorted(one for one in self.directory.glob("0*.dsse.json"))


def attest(payload: bytes, signer: CryptoSigner) -> Attestation:
    """What a board answers: DER ECDSA over the pre-authentication encoding."""
    signature = signer.sign(pae(payload))
    return Attestation(
        payload=base64.b64encode(payload).decode(), key_id=signature.keyid, signature=signature.signature
    )


def forge(
    bench: Bench,
    path: Path,
    change: Callable[[dict[str, Any]], None],
    *,
    signers: Sequence[CryptoSigner],
    reindex: bool = True,
) -> None:
    """Rewrite a sealed envelope: change its statement, sign it with these keys and, as a holder of the lab's key
    could, write a new index that agrees."""
    value = json.loads(open_envelope(path.read_bytes(), what="x").payload)
    change(value)
    path.write_bytes(sign(canonical.to_bytes(value), signers).to_bytes())
    if reindex:
        rewrite_index(bench)


def rewrite_index(bench: Bench, *, signer: CryptoSigner | None = None, drop: Sequence[str] = ()) -> None:
    """Sign an index over what lies in the directory now."""
    path = bench.directory / INDEX_FILE
    value = json.loads(open_envelope(path.read_bytes(), what="x", payload_type=INDEX_PAYLOAD_TYPE).payload)
    for record in value["records"]:
        record["envelopes"] = [one for one in record["envelopes"] if one["file"] not in drop]
        for one in record["envelopes"]:
            data = (bench.directory / one["file"]).read_bytes()
            one["digest"] = {"sha256": canonical.sha256_hex(data)}
    payload = canonical.to_bytes(value)
    path.write_bytes(sign(payload, [signer or bench.lab], payload_type=INDEX_PAYLOAD_TYPE).to_bytes())

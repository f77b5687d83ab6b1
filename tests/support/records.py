"""Test records as a small farm run makes them: one of every kind of ending, for tests of reports."""

from __future__ import annotations

import math

from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.record import ArtifactRef, BoardRef, GateUse, Status, Step, TestRecord
from pytest_edgehil.model.verdict import Outcome, Verdict

STARTED_AT = 1_790_000_000.0
MODULE = "suites/models/test_digits.py"

GOOD = ArtifactRef(
    track="model",
    label="digits 1.0.0 int8-static",
    name="digits",
    version="1.0.0",
    quantisation="int8-static",
    digest="sha256:" + "a1" * 32,
    size_bytes=412_672,
)
BAD = ArtifactRef(
    track="model",
    label="digits 1.0.1 int8-coarse",
    name="digits",
    version="1.0.1",
    quantisation="int8-coarse",
    digest="sha256:" + "b2" * 32,
    size_bytes=401_408,
)
FIRMWARE = ArtifactRef(
    track="firmware",
    label="edge-os 2026.11",
    name="edge-os",
    version="2026.11",
    quantisation="none",
    digest="sha256:" + "c3" * 32,
    size_bytes=88_064,
)


def board(number: int, *, environment: Environment = Environment.VIRTUAL) -> BoardRef:
    cls = "pi5-4gb" if number == 3 else "pi5-8gb-hat2"
    return BoardRef(
        id=f"pi5-{number:02}",
        cls=cls,
        environment=environment,
        serial=f"{number:016x}",
        hardware_model="Raspberry Pi 5 Model B Rev 1.0",
        accelerator="hailo10h",
        runtime="onnxruntime 1.23.2",
        firmware="edge-os 2026.11",
    )


def latency(outcome: Outcome = Outcome.PASS, *, observed_ms: float = 9.82, n: int = 480) -> Verdict:
    reason = {
        Outcome.PASS: f"p95 latency is {observed_ms} ms, within the budget of 12 ms",
        Outcome.FAIL: f"p95 latency is {observed_ms} ms, above the budget of 12 ms",
        Outcome.INCONCLUSIVE: f"{n} inferences could not decide whether p95 is within 12 ms",
        Outcome.INVALID: "the board throttled while latency was measured (throttled=0x50005)",
    }[outcome]
    return Verdict(
        gate="p95_latency",
        outcome=outcome,
        unit="ns",
        n=n,
        reason=reason,
        observed=observed_ms * 1e6,
        budget=12e6,
        interval=(observed_ms * 0.96e6, observed_ms * 1.05e6),
        not_checked=("autocorrelation of the latencies",),
        statistics={"alpha": 0.05, "log_e_pass": 4.2, "looks": 3.0},
    )


def agreement(outcome: Outcome = Outcome.PASS, *, observed: float = 0.9961, n: int = 540) -> Verdict:
    sign = "at least" if outcome is Outcome.PASS else "below"
    return Verdict(
        gate="accuracy",
        outcome=outcome,
        unit="fraction",
        n=n,
        reason=f"agrees with digits-fp32 on {observed:.1%} of {n} items, {sign} the required 98 %",
        observed=observed,
        budget=0.98,
        interval=(observed - 0.008, min(1.0, observed + 0.003)),
        better="higher",
    )


def peak_rss(outcome: Outcome = Outcome.PASS, *, observed_mib: float = 96.4) -> Verdict:
    return Verdict(
        gate="peak_rss",
        outcome=outcome,
        unit="bytes",
        n=1,
        reason=f"VmHWM was {observed_mib} MiB of 180 MiB",
        observed=observed_mib * 2**20,
        budget=180 * 2**20,
        not_checked=("memory that the accelerator's driver holds",),
    )


def steps(*, at: float = STARTED_AT, measure_s: float = 6.5, failed: bool = False) -> tuple[Step, ...]:
    return (
        Step(name="reserve", started_at=at, duration_s=0.4, detail="lease 17 on pi5-01"),
        Step(name="flash", started_at=at + 0.4, duration_s=1.9, detail="403 KiB sent, 1 file skipped"),
        Step(name="warm-up", started_at=at + 2.3, duration_s=0.5, detail="20 inferences"),
        Step(name="measure", started_at=at + 2.8, duration_s=measure_s, detail="480 inferences"),
        Step(name="judge", started_at=at + 2.8 + measure_s, duration_s=0.1, failed=failed),
    )


def passed(number: int = 1, *, test: str = "test_digits", attempt: int = 1) -> TestRecord:
    verdicts = (agreement(), latency(), peak_rss())
    return TestRecord(
        nodeid=f"{MODULE}::{test}",
        status=Status.PASSED,
        started_at=STARTED_AT,
        duration_s=9.4,
        attempt=attempt,
        worker="gw0",
        board=board(number),
        combo=(FIRMWARE, GOOD),
        gates=tuple(GateUse(name=one.gate, arguments={"alpha": 0.05}) for one in verdicts),
        verdicts=verdicts,
        steps=steps(),
        lease_token=17,
        nonce="5f" * 16,
    )


def failed(number: int = 2) -> TestRecord:
    verdicts = (agreement(Outcome.FAIL, observed=0.812), latency(Outcome.FAIL, observed_ms=16.2), peak_rss())
    return TestRecord(
        nodeid=f"{MODULE}::test_coarse",
        status=Status.FAILED,
        started_at=STARTED_AT + 10,
        duration_s=9.4,
        worker="gw1",
        message=f"accuracy: {verdicts[0].reason}; p95_latency: {verdicts[1].reason}",
        board=board(number),
        combo=(FIRMWARE, BAD),
        verdicts=verdicts,
        steps=steps(at=STARTED_AT + 10, failed=True),
        lease_token=18,
    )


def inconclusive(number: int = 3) -> TestRecord:
    verdict = latency(Outcome.INCONCLUSIVE, observed_ms=11.97, n=1000)
    return TestRecord(
        nodeid=f"{MODULE}::test_close_call",
        status=Status.INCONCLUSIVE,
        started_at=STARTED_AT + 20,
        duration_s=14.0,
        worker="gw2",
        message=f"p95_latency: {verdict.reason}",
        board=board(number),
        combo=(GOOD,),
        verdicts=(verdict,),
        steps=steps(at=STARTED_AT + 20, failed=True),
    )


def invalid(number: int = 3) -> TestRecord:
    verdict = latency(Outcome.INVALID, observed_ms=14.0)
    return TestRecord(
        nodeid=f"{MODULE}::test_hot",
        status=Status.INVALID,
        started_at=STARTED_AT + 30,
        duration_s=14.0,
        worker="gw2",
        message=f"p95_latency: {verdict.reason}",
        board=board(number),
        combo=(GOOD,),
        verdicts=(verdict,),
        steps=steps(at=STARTED_AT + 30, failed=True),
    )


def put_back(number: int = 4) -> TestRecord:
    """The first attempt of `passed(test="test_survives")`: its board lost power."""
    reserve, flash, *_ = steps(at=STARTED_AT + 1)
    reason = "link to pi5-04 broke after 100000 bytes while measuring; the console says nothing"
    return TestRecord(
        nodeid=f"{MODULE}::test_survives",
        status=Status.INFRASTRUCTURE,
        started_at=STARTED_AT + 1,
        duration_s=3.0,
        requeued=True,
        worker="gw3",
        message=reason,
        board=board(number),
        combo=(FIRMWARE, GOOD),
        steps=(
            reserve,
            flash,
            Step(name="measure", started_at=STARTED_AT + 3.3, duration_s=0.7, detail=reason, failed=True),
        ),
        quarantined=reason,
    )


def infrastructure() -> TestRecord:
    return TestRecord(
        nodeid=f"{MODULE}::test_nobody_left",
        status=Status.INFRASTRUCTURE,
        started_at=STARTED_AT + 40,
        duration_s=2.0,
        message="no board of class pi5-4gb is left: pi5-03 is quarantined",
    )


def error(number: int = 1) -> TestRecord:
    return TestRecord(
        nodeid=f"{MODULE}::test_typo",
        status=Status.ERROR,
        started_at=STARTED_AT + 50,
        duration_s=0.1,
        message="NameError: name 'heldot' is not defined",
        board=board(number),
        combo=(GOOD,),
    )


def unbounded() -> TestRecord:
    """A record with numbers that JSON has no word for."""
    verdict = Verdict(
        gate="soak",
        outcome=Outcome.INCONCLUSIVE,
        unit="bytes/h",
        n=2,
        reason="two readings bound no leak",
        observed=math.nan,
        budget=5 * 2**20,
        interval=(0.0, math.inf),
        statistics={"log_e_pass": -math.inf},
    )
    return TestRecord(
        nodeid=f"{MODULE}::test_soak",
        status=Status.INCONCLUSIVE,
        started_at=STARTED_AT + 60,
        duration_s=3600.0,
        message=f"soak: {verdict.reason}",
        board=board(1),
        combo=(GOOD,),
        verdicts=(verdict,),
    )


def farm_run() -> tuple[TestRecord, ...]:
    """One of everything, in no helpful order."""
    return (
        passed(),
        put_back(),
        inconclusive(),
        passed(3, test="test_survives", attempt=2),
        failed(),
        infrastructure(),
        error(),
        invalid(),
    )


QUARANTINED = {"pi5-04": "link to pi5-04 broke after 100000 bytes while measuring; the console says nothing"}
NOT_RUN = (f"{MODULE}::test_never",)

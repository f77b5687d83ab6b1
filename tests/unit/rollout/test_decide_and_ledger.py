from __future__ import annotations

import base64
import dataclasses
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from support.canary import NEW, NOW, OLD, PLAN, fleet, write

from pytest_edgehil.errors import RolloutError
from pytest_edgehil.evidence.canonical import digest_of
from pytest_edgehil.evidence.keys import load_or_create_signer
from pytest_edgehil.model.board import Environment
from pytest_edgehil.rollout.decide import Decision, Move, PastDecision, decide
from pytest_edgehil.rollout.ledger import append, read_ledger
from pytest_edgehil.rollout.plan import Plan, load_plan
from pytest_edgehil.rollout.telemetry import read_telemetry


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(tmp_path, PLAN)


def plan_of(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / f"plan-{len(list(tmp_path.glob('plan-*')))}.yaml"
    path.write_text(text)
    return load_plan(path)


def decided(
    tmp_path: Path,
    plan: Plan,
    lines: list[dict[str, Any]],
    *,
    history: tuple[PastDecision, ...] = (),
    now: float = NOW,
) -> Decision:
    directory = write(tmp_path / "telemetry", lines)
    telemetry = read_telemetry(directory, artifact=NEW, baseline=OLD, environment=Environment.VIRTUAL, now=now)
    return decide(plan, telemetry, artifact=NEW, baseline=OLD, history=history, now=now, actor="ci")


def past(plan: Plan, move: Move, **changes: Any) -> PastDecision:
    made = PastDecision(
        number=1,
        plan=plan.name,
        seq=plan.seq,
        plan_digest=plan.digest,
        artifact=NEW,
        move=move,
        complete=False,
        decided_at=NOW - 300,
    )
    return dataclasses.replace(made, **changes)


# --- decisions -----------------------------------------------------------------------------------------


def test_a_healthy_canary_is_promoted(tmp_path: Path, plan: Plan) -> None:
    found = decided(tmp_path, plan, fleet())
    assert (found.move, found.weight_from, found.weight_to) == (Move.PROMOTE, 10, 50)
    assert len(found.reasons) == 2
    assert found.devices == (4, 4)


def test_other_answers_than_before_roll_back(tmp_path: Path, plan: Plan) -> None:
    found = decided(tmp_path, plan, fleet(shadow_disagreements=20))
    assert (found.move, found.weight_to) == (Move.ROLL_BACK, 0)
    assert found.reasons == ("answers: shadow-disagreement 0.4 (80 of 200); a failure: result > 0.05",)


def test_a_hard_rule_rolls_back_though_no_metric_asks(tmp_path: Path, plan: Plan) -> None:
    found = decided(tmp_path, plan, fleet(crashes=1))
    assert found.move is Move.ROLL_BACK
    assert found.hard == found.reasons


def test_no_data_holds(tmp_path: Path, plan: Plan) -> None:
    found = decided(tmp_path, plan, [])
    assert found.move is Move.HOLD
    assert all("no data" in reason for reason in found.reasons)


def test_too_little_data_holds(tmp_path: Path, plan: Plan) -> None:
    found = decided(tmp_path, plan, fleet(devices=2))
    assert found.move is Move.HOLD
    assert "2 canaries, 3 are needed" in found.reasons[0]


def test_a_pause_that_is_not_over_holds(tmp_path: Path, plan: Plan) -> None:
    history = (past(plan, Move.PROMOTE),)
    fresh = fleet(started_at=NOW - 200)
    for one in fresh:
        one["started_at"] = NOW - 200
    found = decided(tmp_path, plan, fresh, history=history)
    assert (found.move, found.weight_from) == (Move.HOLD, 50)
    assert found.reasons == ("the pause of this step lasts another 55 min",)
    later = decided(tmp_path, plan, fresh, history=history, now=NOW + 3400)
    assert (later.move, later.weight_to) == (Move.PROMOTE, 100)


def test_a_bad_canary_is_rolled_back_before_its_pause_is_over(tmp_path: Path, plan: Plan) -> None:
    lines = fleet(shadow_disagreements=20, started_at=NOW - 200)
    assert decided(tmp_path, plan, lines, history=(past(plan, Move.PROMOTE),)).move is Move.ROLL_BACK


def test_telemetry_that_led_to_a_promotion_does_not_lead_to_the_next(tmp_path: Path, plan: Plan) -> None:
    found = decided(tmp_path, plan, fleet(), history=(past(plan, Move.PROMOTE),), now=NOW + 7200)
    assert found.move is Move.HOLD
    assert found.devices == (0, 0)


def test_the_last_step_completes_the_rollout(tmp_path: Path, plan: Plan) -> None:
    history = (past(plan, Move.PROMOTE, decided_at=NOW - 9000), past(plan, Move.PROMOTE, decided_at=NOW - 5000))
    found = decided(tmp_path, plan, fleet(), history=history)
    assert (found.complete, found.weight_from, found.weight_to) == (True, 100, 100)


def test_a_rollout_that_is_complete_or_rolled_back_is_over(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(RolloutError, match=r"rolled sha256:aaaaaaaaaaaa… back"):
        decided(tmp_path, plan, fleet(), history=(past(plan, Move.ROLL_BACK),))
    with pytest.raises(RolloutError, match="to all devices"):
        decided(tmp_path, plan, fleet(), history=(past(plan, Move.PROMOTE, complete=True),))


def test_what_became_of_another_artifact_does_not_matter(tmp_path: Path, plan: Plan) -> None:
    history = (past(plan, Move.ROLL_BACK, artifact="sha256:" + "cc" * 32),)
    assert decided(tmp_path, plan, fleet(), history=history).move is Move.PROMOTE


def test_an_old_plan_is_refused(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(RolloutError, match=r"its seq is 1, but decision 1 was made on seq 2"):
        decided(tmp_path, plan, fleet(), history=(past(plan, Move.HOLD, seq=2),))


def test_a_plan_that_was_changed_without_a_new_seq_is_refused(tmp_path: Path, plan: Plan) -> None:
    changed = plan_of(tmp_path, PLAN.replace("0.05", "0.5"))
    with pytest.raises(RolloutError, match="it was changed since decision 1; raise its seq"):
        decided(tmp_path, changed, fleet(), history=(past(plan, Move.HOLD),))
    raised = plan_of(tmp_path, PLAN.replace("0.05", "0.5").replace("seq: 1", "seq: 2"))
    assert decided(tmp_path, raised, fleet(), history=(past(plan, Move.ROLL_BACK),)).move is Move.PROMOTE


# --- ledger --------------------------------------------------------------------------------------------


class Book:
    """A ledger with three decisions: hold, hold, promote."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "ledger.jsonl"
        self.signer = CryptoSigner.generate_ed25519()
        self.plan = plan_of(directory, PLAN)

    def append(self, lines: list[dict[str, Any]], *, signer: CryptoSigner | None = None) -> tuple[Decision, str]:
        return append(
            self.path,
            lambda history: decided(self.directory, self.plan, lines, history=history),
            signer=signer or self.signer,
            trusted=[self.signer.public_key],
        )

    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines()

    def rewrite(self, lines: list[bytes]) -> None:
        self.path.write_bytes(b"".join(one + b"\n" for one in lines))

    def refuses(self, message: str, **how: Any) -> None:
        with pytest.raises(RolloutError, match=message):
            read_ledger(self.path, [self.signer.public_key], **how)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    made = Book(tmp_path)
    made.append([])
    made.append([])
    made.append(fleet())
    return made


def test_a_ledger_is_read_back(book: Book) -> None:
    found = read_ledger(book.path, [book.signer.public_key])
    assert [one.move for one in found.entries] == [Move.HOLD, Move.HOLD, Move.PROMOTE]
    assert found.head == digest_of(book.lines()[-1])
    assert found.entries[-1].plan_digest == book.plan.digest


def test_a_decision_records_what_it_was_made_on(book: Book) -> None:
    payload = json.loads(base64.b64decode(json.loads(book.lines()[-1])["payload"]))
    predicate = payload["predicate"]
    assert payload["subject"][0]["digest"]["sha256"] == "aa" * 32
    assert predicate["verificationResult"] == "PASSED"
    assert predicate["policy"]["digest"]["sha256"] == book.plan.digest.removeprefix("sha256:")
    assert predicate["plan"] == {"name": "canary", "seq": 1}
    assert predicate["actor"] == "ci"
    assert {one["uri"] for one in predicate["inputAttestations"]} == {f"{g}{i}.jsonl" for g in "cd" for i in range(4)}
    for one in predicate["inputAttestations"]:
        data = (book.directory / "telemetry" / one["uri"]).read_bytes()
        assert digest_of(data) == f"sha256:{one['digest']['sha256']}"


def test_an_edited_line_is_detected(book: Book) -> None:
    lines = book.lines()
    value = json.loads(lines[1])
    payload = base64.b64decode(value["payload"]).replace(b'"decision":"hold"', b'"decision":"promote"')
    value["payload"] = base64.b64encode(payload).decode()
    book.rewrite([lines[0], json.dumps(value).encode(), lines[2]])
    book.refuses(r"ledger.jsonl:2: the decision is not signed by a trusted rollout key, or was altered")


def test_lines_in_another_order_are_detected(book: Book) -> None:
    one, two, three = book.lines()
    book.rewrite([two, one, three])
    book.refuses(r"ledger.jsonl:1: this is decision 2, expected 1")


@pytest.mark.parametrize("removed", [0, 1])
def test_a_line_that_was_removed_is_detected(book: Book, removed: int) -> None:
    book.rewrite([one for i, one in enumerate(book.lines()) if i != removed])
    book.refuses(rf"ledger.jsonl:{removed + 1}: this is decision {removed + 2}, expected {removed + 1}")


def test_a_line_that_was_put_in_twice_is_detected(book: Book) -> None:
    book.rewrite([*book.lines(), book.lines()[-1]])
    book.refuses(r"ledger.jsonl:4: this is decision 3, expected 4")


def test_a_line_of_another_history_is_detected(book: Book, tmp_path: Path) -> None:
    other = Book(tmp_path / "other") if (tmp_path / "other").mkdir() is None else book
    other.signer = book.signer
    other.append(fleet())
    other.append([])
    one, _, three = book.lines()
    book.rewrite([one, other.lines()[1], three])
    book.refuses(r"ledger.jsonl:2: it follows sha256:.*, but the line before is sha256:")


def test_a_line_that_is_cut_off_is_detected(book: Book) -> None:
    book.path.write_bytes(book.path.read_bytes()[:-10])
    book.refuses("ledger.jsonl:3: the last line is cut off")
    with pytest.raises(RolloutError, match="cut off"):
        book.append([])


def test_newer_lines_that_were_cut_off_need_the_head_to_be_detected(book: Book) -> None:
    head = read_ledger(book.path, [book.signer.public_key]).head
    book.rewrite(book.lines()[:-1])
    read_ledger(book.path, [book.signer.public_key])  # the chain alone cannot see it
    book.refuses("newer lines were cut off", head=head)


def test_an_earlier_head_is_found_in_a_ledger_that_has_grown(book: Book) -> None:
    head = digest_of(book.lines()[0])
    assert read_ledger(book.path, [book.signer.public_key], head=head).head != head


def test_a_decision_by_another_key_is_refused(book: Book) -> None:
    with pytest.raises(RolloutError, match="is not among the rollout keys"):
        book.append([], signer=CryptoSigner.generate_ed25519())
    with pytest.raises(RolloutError, match=r"ledger.jsonl:1: the decision is not signed by a trusted"):
        read_ledger(book.path, [CryptoSigner.generate_ed25519().public_key])


def test_nothing_is_appended_to_a_ledger_that_does_not_verify(book: Book) -> None:
    book.rewrite(list(reversed(book.lines())))
    before = book.path.read_bytes()
    with pytest.raises(RolloutError):
        book.append([])
    assert book.path.read_bytes() == before


def test_a_missing_ledger_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="cannot be read"):
        read_ledger(tmp_path / "none.jsonl", [])


def _hold(directory: str) -> None:
    base = Path(directory)
    signer = load_or_create_signer(base / "rollout.pem")
    plan = load_plan(base / "plan-0.yaml")
    empty = read_telemetry(base / "empty", artifact=NEW, baseline=OLD, environment=Environment.VIRTUAL, now=NOW)
    append(
        base / "ledger.jsonl",
        lambda history: decide(plan, empty, artifact=NEW, baseline=OLD, history=history, now=NOW, actor="ci"),
        signer=signer,
        trusted=[signer.public_key],
    )


def test_processes_that_decide_at_once_keep_the_chain(tmp_path: Path) -> None:
    plan_of(tmp_path, PLAN)
    (tmp_path / "empty").mkdir()
    signer = load_or_create_signer(tmp_path / "rollout.pem")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(_hold, [str(tmp_path)] * 6)
    assert len(read_ledger(tmp_path / "ledger.jsonl", [signer.public_key]).entries) == 6

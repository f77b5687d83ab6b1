"""Each verdict of the gates on outputs, through the whole stack with recorded models. With workers one of each form.

What such a gate calls INVALID (a baseline without finite likelihoods, items that are neither right nor wrong) cannot be
recorded: a trace holds finite numbers only. It is shown on samples, in tests/unit/gates.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.farm import replay_artifact
from support.standing_farm import Ran, StandingFarm, run_once

from pytest_edgehil.artifacts.replay import TensorShape
from pytest_edgehil.evidence import raw
from pytest_edgehil.model.record import GateUse

SHIFTS = (("words", 0.0, 0.0), ("words-close", 0.02, 0.02), ("words-near", 0.12, 0.45), ("words-far", 1.5, 0.3))
"""Model → how much less likely it makes the token that follows, in nats; and how unevenly over the prompts."""
ITEMS, PROMPTS, TOKENS, VOCABULARY = 400, 30, 6, 5
IMAGES = {"PASS": "base", "FAIL": "far", "INCONCLUSIVE": "near"}
WORDS = {"PASS": "words-close", "FAIL": "words-far", "INCONCLUSIVE": "words-near"}
FORMS = {
    # name → markers, outcome → model, what the body does
    "agreement": (
        ('accuracy(agreement=0.95, baseline="base")', "cosine_similarity(0.9, share=0.95)"),
        IMAGES,
        "evaluate(heldout('images'))",
    ),
    "at_least": (("accuracy(at_least=0.95)",), IMAGES, "evaluate(heldout('images'))"),
    "drop": (('accuracy(drop=0.05, baseline="base")',), IMAGES, "evaluate(heldout('images'))"),
    "tokens": (
        ('token_kl("0.02 nats", baseline="words")', "perplexity_ratio(1.1)"),
        WORDS,
        "score_tokens(heldout('prompts'))",
    ),
}


OF_WORKERS = {"agreement": ("PASS",), "at_least": ("FAIL",), "drop": ("INCONCLUSIVE",), "tokens": ("PASS",)}
"""Form → outcomes that are reached with workers, too: records come from them as those of other gates do."""


def outcomes(form: str, *, workers: bool) -> tuple[str, ...]:
    return OF_WORKERS[form] if workers else tuple(FORMS[form][1])


def suite(*, workers: bool) -> str:
    text = "import pytest\n"
    for form, (markers, models, call) in FORMS.items():
        for outcome in outcomes(form, workers=workers):
            model = models[outcome]
            marks = "".join(f"@pytest.mark.{one}\n" for one in (f"combo(model={model!r})", *markers))
            text += f"\n{marks}def test_{form}_{outcome}(dut, heldout):\n    dut.{call}\n"
    return text


def prepare(farm: StandingFarm, *, workers: bool) -> None:
    rng = np.random.default_rng(11)
    farm.boards(2)
    right = np.arange(ITEMS) % 4
    for name, wrong in (("base", 0), ("near", 20), ("far", 200)):
        classes = right.copy()
        chosen = rng.permutation(ITEMS)[:wrong]
        classes[chosen] = (classes[chosen] + 1) % 4
        replay_artifact(farm.artifacts, name=name, outputs={"logits": np.eye(4)[classes].tolist()})
    ids = rng.integers(0, VOCABULARY, size=(PROMPTS, TOKENS))
    logits = rng.normal(size=(PROMPTS, TOKENS, VOCABULARY))
    # the token that follows becomes less likely, by more and more
    following = np.eye(VOCABULARY)[np.roll(ids, -1, axis=1)]
    shape = TensorShape(dtype="int64", shape=(1, TOKENS))
    for name, shift, spread in SHIFTS:
        moved = logits - following * (shift + spread * rng.normal(size=(PROMPTS, 1, 1)))
        replay_artifact(farm.artifacts, name=name, inputs={"ids": shape}, outputs={"logits": moved.tolist()})
    sets = farm.path / "sets"
    sets.mkdir()
    np.savez(sets / "images.npz", image=np.ones((ITEMS, 4), dtype=np.float32), labels=right)
    np.savez(sets / "prompts.npz", ids=ids)
    (farm.path / "pytest.ini").write_text("[pytest]\nedgehil_datasets = sets\n", encoding="utf-8")
    farm.suite(suite(workers=workers))


@pytest.fixture(scope="module", params=[(), ("-n2",)], ids=["alone", "n2"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    workers = request.param
    return run_once(
        tmp_path_factory, f"accuracy{''.join(workers)}", lambda farm: prepare(farm, workers=bool(workers)), *workers
    )


def test_every_verdict_of_every_form(ran: Ran):
    workers = ran.farm.path.name != "accuracy"
    told = {name: [verdict["outcome"] for verdict in one["verdicts"]] for name, (one,) in ran.attempts.items()}
    assert told == {
        f"test_{form}_{outcome}": [outcome] * len(markers)
        for form, (markers, *_) in FORMS.items()
        for outcome in outcomes(form, workers=workers)
    }
    ran.result.assert_outcomes(passed=2 if workers else 4, failed=2 if workers else 8)


def test_every_verdict_says_what_would_change_it(ran: Ran):
    for (one,) in ran.attempts.values():
        assert all(verdict["would_change"] for verdict in one["verdicts"])


def test_records_and_evidence_name_set_and_baseline_by_digest(ran: Ran):
    one = ran.attempts["test_agreement_PASS"][0]
    (used,) = one["heldout"]
    assert (used["name"], used["baseline"]) == ("sets/images", "base 1.0.0 recorded")
    assert used["baseline_digest"] == one["combo"][0]["digest"]  # it is compared with itself
    assert one["verdicts"][0]["n"] < used["items"] == used["of"] == ITEMS
    assert one["order_seed"] is None  # a recording answers by the place of an item
    verified = ran.farm.edgehil("evidence", "verify", str(ran.farm.report / "evidence"))
    assert f"{len(ran.attempts)} statements" in verified.stdout


def test_the_verdicts_follow_from_the_stored_samples(ran: Ran):
    for (one,) in ran.attempts.values():
        sample = raw.read_sample(ran.farm.report / one["files"]["samples"])
        uses = [GateUse(**use) for use in one["gates"]]
        for again, stored in zip(raw.recompute(sample, uses), one["verdicts"], strict=True):
            assert (again.outcome.value, again.n, again.reason) == (stored["outcome"], stored["n"], stored["reason"])
            assert again.observed == stored["observed"]

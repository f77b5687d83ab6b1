"""What a test's source tells of its held-out sets, and sets that are too small for what is to be certified."""

from __future__ import annotations

import numpy as np
import pytest
from support.farm import Farm, replay_artifact

from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.errors import DatasetError
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.plugin.foresight import heldout_names, refuse_too_small

NAME = "elsewhere"


def written_out(dut, heldout):
    dut.evaluate(heldout("digits"), items=10)
    dut.run({"x": heldout("digits").inputs["image"][:1]})


def bound_before(dut, heldout):
    items = heldout("digits")
    assert len(items) > 3
    dut.evaluate(items)
    dut.score_tokens(prompts=heldout("notes"))


def parametrised(dut, heldout, which):
    dut.evaluate(heldout(which))


def of_the_module(dut, heldout):
    dut.evaluate(heldout(NAME))


def own_data(dut, heldout):
    dut.evaluate(heldout("digits"))
    dut.evaluate(Dataset.of_arrays("mine", {"x": np.ones((3, 1))}))


def helped(dut, heldout):
    dut.evaluate(heldout("digits"))
    print(dut)


def handed_on(dut, heldout):
    print(heldout)
    dut.evaluate(heldout("digits"))


def bound_twice(dut, heldout):
    items = heldout("digits")
    items = items.head(3)
    dut.evaluate(items)


def aliased(dut, heldout):
    evaluate = dut.evaluate
    evaluate(heldout("digits"))


def runs_only(dut, heldout):
    dut.run({"x": heldout("digits").inputs["image"][:1]})


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (written_out, ("digits",)),
        (bound_before, ("digits", "notes")),
        (parametrised, ("faces",)),
        (of_the_module, ()),
        (own_data, ()),
        (helped, ()),
        (handed_on, ()),
        (bound_twice, ()),
        (aliased, ()),
        (runs_only, ()),
        (len, ()),
    ],
)
def test_only_what_cannot_be_mistaken_is_read(function, names):
    assert heldout_names(function, {"which": "faces"}) == names


class Always:
    """A baseline that says the same of everything."""

    def __init__(self, of):
        self.of = of

    def evaluate(self, inputs):
        return {"logits": np.eye(3)[np.full(len(inputs["x"]), self.of)]}


def told(items, *gates, labels=None, baseline=None):
    found = Dataset.of_arrays("set", {"x": np.zeros((items, 1))}, labels)
    parsed = tuple(parse(name, args, asked, settings=GateSettings()) for name, args, asked in gates)
    try:
        refuse_too_small(
            parsed, ("set",), dataset=lambda _: found, where=lambda _: "sets/set.npz", baseline=lambda: baseline
        )
    except DatasetError as problem:
        return str(problem)
    return None


def test_a_set_that_can_never_lead_to_a_pass_is_named_with_what_is_needed():
    agreement, cosine = ("accuracy", (), {"agreement": 0.99}), ("cosine_similarity", (0.99,), {"share": 0.95})
    assert told(120, cosine, agreement) == (
        "accuracy: 299 items are needed to certify an agreement with the baseline of 99% at an error rate of 5%; "
        "the set has 120 (sets/set.npz); no board was reserved"
    )
    assert told(299, cosine, agreement, ("p95_latency", ("12 ms",), {})) is None
    assert "59 items are needed" in told(58, cosine)
    assert "20 prompts are needed" in told(19, ("token_kl", (0.02,), {}))
    assert told(20, ("perplexity_ratio", (1.02,), {})) is None


def test_a_drop_with_labels_may_be_won_back_where_the_baseline_is_wrong():
    drop, labels = ("accuracy", (), {"drop": 0.01}), np.zeros(280, dtype=np.int64)
    assert "320 items are needed" in told(280, drop, labels=labels, baseline=Always(0))
    assert told(280, drop, labels=labels, baseline=Always(1)) is None
    assert "299 items are needed to certify a drop in accuracy of at most 1% without labels" in told(280, drop)


def test_no_board_is_reserved_for_a_set_that_is_missing_or_too_small(farm: Farm):
    replay_artifact(farm.artifacts, name="steady")
    sets = farm.pytester.mkdir("sets")
    for name, items in (("small", 120), ("large", 300)):
        np.savez(sets / f"{name}.npz", image=np.ones((items, 4), dtype=np.float32))
    farm.pytester.makeini(f"[pytest]\nedgehil_datasets = {sets}\n")
    farm.pytester.makepyfile(
        """
        import pytest

        pytestmark = [
            pytest.mark.combo(model="steady"), pytest.mark.accuracy(agreement=0.99, baseline="steady")
        ]

        @pytest.mark.parametrize("name", ["small", "larg", "large"])
        def test_it(dut, heldout, name):
            dut.evaluate(heldout(name))
        """
    )
    result = farm.run()
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*299 items are needed to certify*99%*the set has 120 (*small.npz); no board*"])
    result.stdout.fnmatch_lines(["*held-out set 'larg' not found; did you mean 'large'?; looked at *"])
    tests = {one["nodeid"].rpartition("[")[2]: one for one in farm.results["tests"]}
    assert {name: one["board"] is None for name, one in tests.items()} == {
        "small]": True,
        "larg]": True,
        "large]": False,
    }

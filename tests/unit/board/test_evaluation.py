"""Comparing outputs: the drawn order of the items, cosines, and scores of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.board import tokens
from pytest_edgehil.board.evaluation import Course, cosines, drawn_order
from pytest_edgehil.errors import DatasetError, ModelError


def test_the_order_follows_from_the_set_and_the_seed_and_from_nothing_else():
    first = drawn_order(100, digest="sha256:aa", seed=0)
    assert sorted(first) == list(range(100))
    np.testing.assert_array_equal(first, drawn_order(100, digest="sha256:aa", seed=0))
    assert (first != drawn_order(100, digest="sha256:ab", seed=0)).any()
    assert (first != drawn_order(100, digest="sha256:aa", seed=-1)).any()
    # the evidence of a run names the seed only: this must be the order for ever
    assert drawn_order(8, digest="sha256:aa", seed=0).tolist() == [3, 4, 0, 7, 6, 1, 2, 5]


def course(**changes):
    inputs = {"x": np.arange(12, dtype=np.float32).reshape(6, 2)}
    return Course(dataset=Dataset.of_arrays("set", inputs, np.arange(6) % 2), baseline=None, **changes)


def test_what_a_test_gets_is_in_the_sets_own_order_whatever_order_was_drawn():
    drawn = course(order_seed=3)
    outputs = {"y": np.eye(2, dtype=np.float32)[drawn.dataset.labels[drawn.order[:4]]]}
    found = drawn.compare(4, output="y", outputs=outputs, reference=None, latencies_ns=np.arange(4))
    assert found.items.tolist() == drawn.order[:4].tolist()
    assert found.correct.all()
    given = found.in_order_of_the_set()
    assert given.items.tolist() == sorted(drawn.order[:4])
    np.testing.assert_array_equal(given.predicted, drawn.dataset.labels[given.items])
    np.testing.assert_array_equal(drawn.feeds["x"], drawn.dataset.inputs["x"][drawn.order])


def test_without_a_seed_the_items_keep_their_order():
    assert course().order.tolist() == list(range(6))


def test_a_cosine_sees_direction_only_and_what_has_none_is_no_number():
    ours = np.array([[1.0, 2.0], [1e200, 1e200], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [1.0, 0.0]])
    theirs = np.array([[2.0, 4.0], [1e-200, 1e-200], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    found = cosines(ours, theirs)
    np.testing.assert_allclose(found[[0, 1, 5]], [1.0, 1.0, -1.0])
    assert np.isnan(found[2:5]).all()
    assert np.isnan(cosines(np.ones((2, 3)), np.ones((2, 4)))).all()


def test_token_scores_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(3, 5, 7)), rng.normal(size=(3, 5, 7))
    ids = rng.integers(0, 7, size=(3, 5))
    found = tokens.token_scores(ids, ours, theirs, prompts=np.array([4, 5, 6]))
    p, q = special.softmax(theirs, axis=-1), special.softmax(ours, axis=-1)
    np.testing.assert_allclose(found.kl, special.rel_entr(p, q).sum(-1)[:, :-1].ravel())
    at = np.arange(3)[:, None], np.arange(4)[None], ids[:, 1:]
    np.testing.assert_allclose(found.nll, -np.log(q[at]).ravel())
    np.testing.assert_allclose(found.baseline_nll, -np.log(p[at]).ravel())
    assert found.prompt.tolist() == [4] * 4 + [5] * 4 + [6] * 4


def test_token_scores_of_masked_and_broken_logits():
    masked = np.array([[[0.0, 0.0, -np.inf], [0.0, 0.0, 0.0]]])
    ids = np.array([[0, 1]])
    same = tokens.token_scores(ids, masked, masked, prompts=np.array([0]))
    assert same.kl.tolist() == [0.0]
    worse = tokens.token_scores(ids, np.array([[[0.0, -np.inf, 0.0], [0, 0, 0]]]), masked, prompts=np.array([0]))
    assert np.isinf(worse.kl).all()
    assert np.isinf(worse.nll).all()
    broken = tokens.token_scores(ids, np.full((1, 2, 3), np.nan), masked, prompts=np.array([0]))
    assert np.isnan(broken.kl).all()


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "there are none"),
        ([np.array([1])], "prompt 0 has 1 tokens"),
        ([np.array([1, 2]), np.array([0.5, 1.0])], "prompt 1 is float64"),
        (Dataset.of_arrays("p", {"ids": np.ones((2, 3, 4), dtype=np.int64)}), "expected \\(prompts, tokens\\)"),
        (Dataset.of_arrays("p", {"a": np.ones((2, 3), np.int64), "b": np.ones((2, 3), np.int64)}), "one array"),
    ],
)
def test_what_is_no_prompt_is_refused(prompts, said):
    with pytest.raises(DatasetError, match=said):
        tokens.batches(prompts, input_name="ids")


def test_logits_are_held_a_few_prompts_at_a_time_and_one_prompt_must_fit_into_a_frame():
    (batch,) = tokens.batches([np.zeros(512, dtype=np.int64)] * 5, input_name="ids")
    assert list(tokens.pieces(batch, 8192, where="p")) == [(0, 2), (2, 2), (4, 1)]
    assert list(tokens.pieces(batch, 32768, where="p")) == [(at, 1) for at in range(5)]
    with pytest.raises(DatasetError, match="cut the prompts to 511 tokens"):
        list(tokens.pieces(batch, 32769, where="p"))


def test_outputs_that_are_no_logits_are_refused():
    with pytest.raises(ModelError, match=r"expected logits of shape \(1, 4, vocabulary\)"):
        tokens.vocabulary_of(np.zeros((2, 10)), 4, whose="b1")

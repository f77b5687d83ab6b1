"""The gates that a language model must pass before it may be released; which build of it is on the command line::

pytest -n auto --edgehil-lab=farm/virtual.yaml --edgehil-model notes-int8 suites/language
"""

import numpy as np
import pytest


@pytest.mark.token_kl("0.05 nats", baseline="notes-fp32")
@pytest.mark.p95_latency("250 ms")
def test_next_characters_are_as_likely(dut, heldout):
    dut.score_tokens(heldout("notes"))


@pytest.mark.perplexity_ratio(1.02, baseline="notes-fp32")
def test_text_is_no_more_surprising(dut, heldout):
    dut.score_tokens(heldout("notes"))


@pytest.mark.cosine_similarity(0.99, share=0.95, baseline="notes-fp32")
def test_logits_point_the_same_way(dut, heldout):
    dut.evaluate(heldout("notes"))


def test_what_comes_later_changes_nothing_before(dut, heldout):
    """An ordinary parity test: the model is causal, also as it was built."""
    prompt = heldout("notes").inputs["ids"][:1]
    whole, begun = dut.run({"ids": prompt})["logits"], dut.run({"ids": prompt[:, :20]})["logits"]
    np.testing.assert_allclose(whole[:, :20], begun, atol=1.0)  # int8 ranges are those of the whole prompt

"""What a person may have meant."""

from __future__ import annotations

import doctest

from pytest_edgehil.documents import near_miss, reading
from pytest_edgehil.documents.near_miss import did_you_mean


def test_the_examples_in_the_texts_are_true() -> None:
    for module in (near_miss, reading):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_case_and_underscores_do_not_hide_what_was_meant() -> None:
    assert did_you_mean("HAT_1", ["hat-1", "bare-1"]) == "; did you mean 'hat-1'?"
    assert did_you_mean("hostkey", ["host_key", "port"]) == "; did you mean 'host_key'?"


def test_what_is_no_word_has_no_near_miss() -> None:
    assert did_you_mean(5, ["5a"]) == ""

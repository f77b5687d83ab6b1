"""The figures of the docs: every one that a page shows is drawn, always the same, and small."""

from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "explanation" / "statistics.md"


@pytest.fixture(scope="module")
def figures() -> dict:
    return dict(runpy.run_path(str(DOCS / "figures" / "draw.py"))["FIGURES"])


def test_the_page_shows_exactly_the_figures_that_are_drawn_and_says_in_words_what_they_show(figures: dict) -> None:
    shown = re.findall(r"!\[(.*?)\]\(_figures/([a-z-]+)\.svg\)", PAGE.read_text(), flags=re.S)
    assert sorted(name for _, name in shown) == sorted(figures)
    assert all(len(alt) > 30 for alt, _ in shown)


@pytest.mark.parametrize("name", ["evidence", "starts", "rerun", "items"])
def test_a_figure_is_the_same_every_time_and_small(figures: dict, name: str) -> None:
    drawn = figures[name]()
    assert drawn == figures[name]()
    assert len(drawn) < 60_000
    assert ET.fromstring(drawn).find("{http://www.w3.org/2000/svg}title") is not None


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("evidence", "PASS"), ("evidence-open", "INCONCLUSIVE"), ("ratios", "PASS"), ("temperature", "PASS")],
)
def test_a_figure_shows_the_verdict_that_the_page_speaks_of(figures: dict, name: str, verdict: str) -> None:
    assert f"<title>{verdict} ".encode() in figures[name]()

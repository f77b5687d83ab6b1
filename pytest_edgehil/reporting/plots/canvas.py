"""The paper that every picture is drawn on: one size, one palette, deterministic bytes, words for those who cannot see.

The palette is Okabe and Ito's, which people with any colour vision tell apart; and nothing is said by colour alone. The
background is opaque, for a report may be light or dark around it. matplotlib's defaults are loaded first, so that a
user's ``matplotlibrc`` changes nothing.
"""

from __future__ import annotations

import html
import io
import logging
import re
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pytest_edgehil.errors import UserError
from pytest_edgehil.model.verdict import Outcome

FORMATS: Final = ("svg", "png")
EXTRA: Final = "pytest-edgehil[plots]"

INK, QUIET, GRID, PAPER = "#1f2328", "#57606a", "#d8dee4", "#ffffff"
BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#aa4499"

OUTCOME_COLOUR: Final = {
    Outcome.PASS: GREEN,
    Outcome.FAIL: VERMILLION,
    Outcome.INCONCLUSIVE: "#8a6100",
    Outcome.INVALID: "#8a6100",
}

_WIDTH_IN, _HEIGHT_IN, _PNG_DPI = 7.2, 4.0, 144
_TITLE_COLUMNS, _SUBTITLE_COLUMNS = 84, 104

_STYLE: Final[dict[str, Any]] = {
    "svg.hashsalt": "pytest-edgehil",
    "svg.fonttype": "none",  # text stays text: smaller files, and a screen reader finds it
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "path.simplify": False,  # what is thinned out is decided in `thinning`, which keeps the extremes
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """What stands above a picture, and what is told to those who cannot see it.

    Args:
        outcome: of the verdict; colours the headline. None: there is no verdict.
        headline: the verdict, short.
        note: a quieter line below it; may be empty.
        alt: what the picture shows, in words.
    """

    outcome: Outcome | None
    headline: str
    note: str
    alt: str


def available() -> bool:
    """Is matplotlib there? It is not imported for the answer."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def render(draw: Callable[[Any], Caption], *, file_format: str) -> bytes:
    """Let something draw on fresh axes, and return the picture's bytes: the same for the same drawing.

    Args:
        draw: draws on the `matplotlib.axes.Axes` that it is given.
        file_format: ``svg`` or ``png``.

    Raises:
        UserError: matplotlib is not installed; the message names the extra.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise UserError(
            f"plots need matplotlib, which is not installed ({exc}); run: pip install '{EXTRA}', "
            "or switch them off with --edgehil-plots=off"
        ) from exc
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells everyone that it builds a cache of fonts
    with warnings.catch_warnings(), mpl.rc_context():
        warnings.simplefilter("ignore")  # a font that lacks a sign must not become an error of someone's test run
        settings: Any = mpl.rcParams
        settings.update(mpl.rcParamsDefault)
        settings.update(_STYLE)
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        axes = figure.add_subplot()
        caption = draw(axes)
        _head(figure, axes, caption)
        _legend(figure, axes)
        out = io.BytesIO()
        if file_format == "svg":
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": "pytest-edgehil"})
            return _accessible(out.getvalue(), caption)
        told = {"Title": caption.headline, "Description": caption.alt, "Software": "pytest-edgehil"}
        figure.savefig(out, format="png", dpi=_PNG_DPI, metadata=told)
        return out.getvalue()


def apology(text: str, *, file_format: str) -> bytes:
    """A picture that says in words why there is no other one; as SVG it needs no matplotlib."""
    if file_format == "png":
        return render(lambda axes: _words_only(axes, text), file_format=file_format)
    lines = textwrap.wrap(text, 90) or [""]
    spans = "".join(f'<tspan x="12" dy="18">{html.escape(one, quote=False)}</tspan>' for one in lines)
    height = 24 + 18 * len(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" role="img">'
        f'<title>{html.escape(text, quote=False)}</title><rect width="100%" height="100%" fill="{PAPER}"/>'
        f'<text y="6" font-family="sans-serif" font-size="13" fill="{INK}">{spans}</text></svg>\n'
    ).encode()


def _words_only(axes: Any, text: str) -> Caption:
    axes.set_axis_off()
    return Caption(outcome=None, headline=text, note="", alt=text)


def _head(figure: Any, axes: Any, caption: Caption) -> None:
    colour = INK if caption.outcome is None else OUTCOME_COLOUR[caption.outcome]
    title = textwrap.fill(caption.headline, _TITLE_COLUMNS)
    figure.suptitle(title, x=0.012, ha="left", fontsize=10.5, fontweight="bold", color=colour)
    if caption.note:
        note = textwrap.fill(caption.note, _SUBTITLE_COLUMNS)
        axes.set_title(note, loc="left", fontsize=8.5, color=QUIET)


def _legend(figure: Any, axes: Any) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=min(len(handles), 3))


def _accessible(svg: bytes, caption: Caption) -> bytes:
    """Title and description as elements of the SVG: what a screen reader says, and a browser shows at the pointer."""
    text = svg.decode("utf-8")
    start = text.index(">", text.index("<svg")) + 1
    head = text[: start - 1] + ' role="img">'
    title, description = (html.escape(one, quote=False) for one in (caption.headline, caption.alt))
    told = f"\n <title>{title}</title>\n <desc>{description}</desc>"
    return (head + told + _rounded(text[start:])).encode("utf-8")


_COORDINATES: Final = re.compile(r'(?<= d=")[^"]*(?=")|(?<= [xy]=")[-0-9.]+(?=")')
_DECIMALS: Final = re.compile(r"-?[0-9]+\.[0-9]{3,}")


def _rounded(svg: str) -> str:
    """Coordinates to a hundredth of a point: nobody sees more, and the file is half as long."""

    def shorter(found: re.Match[str]) -> str:
        return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")

    return _COORDINATES.sub(lambda found: _DECIMALS.sub(shorter, found[0]), svg)

"""Which boards do for a requirement, and why the others do not. Pure: who holds what is not asked here."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_edgehil.documents.near_miss import did_you_mean, listed
from pytest_edgehil.errors import BoardUnavailable
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.model.board import Board, Requirement, Timing


def mismatches(board: Board, requirement: Requirement) -> tuple[str, ...]:
    """Every reason why a board does not do; empty when it does."""
    return tuple(_mismatches(board, requirement))


def mismatch(board: Board, requirement: Requirement) -> str | None:
    """Why a board does not do, for example ``class is pi5-4gb, not pi5-8gb-hat2``; None when it does."""
    return "; ".join(mismatches(board, requirement)) or None


def _mismatches(board: Board, requirement: Requirement) -> Iterator[str]:
    if requirement.board_id is not None and board.id != requirement.board_id:
        yield f"it is {board.id}, not {requirement.board_id}"
    if requirement.among is not None and board.id not in requirement.among:
        yield f"it is not among {listed(sorted(requirement.among))}"
    if requirement.cls is not None and not fnmatch.fnmatchcase(board.cls, requirement.cls):
        yield f"class is {board.cls}, not {requirement.cls}"
    missing = sorted(requirement.tags - board.tags)
    if missing:
        yield f"tag {missing[0]} is missing" if len(missing) == 1 else f"tags {', '.join(missing)} are missing"
    if requirement.environment is not None and board.environment is not requirement.environment:
        yield f"environment is {board.environment}, not {requirement.environment}"
    if requirement.timing is not None and board.timing is not requirement.timing:
        counts = "it counts instructions, which whatever is held against seconds refuses"
        told = counts if requirement.timing is Timing.WALL else "its time is a clock's"
        yield f"timing is {board.timing}, not {requirement.timing}: {told}"
    if requirement.accelerator is not None:
        kind = board.accelerator.kind if board.accelerator else None
        if kind != requirement.accelerator:
            yield f"accelerator is {kind or 'missing'}, not {requirement.accelerator}"


def describe(requirement: Requirement) -> str:
    """Write a requirement as people say it.

    >>> describe(Requirement(cls="pi5-8gb-hat2", tags=frozenset({"cooled"})))
    'a board of class pi5-8gb-hat2 with tag cooled'
    """
    words = ["a board"]
    if requirement.board_id is not None:
        words = [f"board {requirement.board_id}"]
    if requirement.cls is not None:
        words.append(f"of class {requirement.cls}")
    if requirement.tags:
        words.append(f"with tag{'s' if len(requirement.tags) > 1 else ''} {', '.join(sorted(requirement.tags))}")
    if requirement.accelerator is not None:
        words.append(f"with accelerator {requirement.accelerator}")
    if requirement.environment is not None:
        words.append(f"that is {requirement.environment}")
    if requirement.timing is not None:
        words.append(f"with timing {requirement.timing}")
    if requirement.among is not None:
        words.append(f"among {listed(sorted(requirement.among))}")
    return " ".join(words)


def candidates(lab: Lab, requirement: Requirement) -> tuple[Board, ...]:
    """The boards that do, best first: the plainest one, so that scarce boards stay free for those who need them.

    Raises:
        BoardUnavailable: no board of the lab can ever fulfil the requirement; the message names the nearest miss.
    """
    fitting = [board for board in lab.boards if mismatch(board, requirement) is None]
    if not fitting:
        raise BoardUnavailable(_refusal(lab, requirement))
    return tuple(sorted(fitting, key=lambda board: _unasked(board, requirement)))


def _unasked(board: Board, requirement: Requirement) -> int:
    """How much a board has that nobody asked for; sorting by it is stable, so equals stay in the lab's order."""
    accelerator = board.accelerator is not None and requirement.accelerator is None
    counted = board.timing is Timing.ICOUNT and requirement.timing is None
    return 100 * accelerator + 10 * counted + len(board.tags - requirement.tags)


def _refusal(lab: Lab, requirement: Requirement) -> str:
    nearest = min(lab.boards, key=lambda board: len(mismatches(board, requirement)))
    meant = ""
    classes = sorted({board.cls for board in lab.boards})
    tags = sorted({tag for board in lab.boards for tag in board.tags})
    if requirement.board_id is not None:
        meant = did_you_mean(requirement.board_id, [board.id for board in lab.boards])
    if not meant and requirement.cls is not None and not fnmatch.filter(classes, requirement.cls):
        meant = did_you_mean(requirement.cls, classes) or f"; the lab's classes are {listed(classes)}"
    for tag in sorted(requirement.tags.difference(tags)):
        there = f"; the lab's tags are {listed(tags)}" if tags else "; it has no tags"
        meant = meant or did_you_mean(tag, tags) or there
    missed = requirement.tags - nearest.tags
    if len(mismatches(nearest, requirement)) == 1 and len(missed) == 1 and not missed & set(tags):
        found = f"no board has tag {min(missed)}; {nearest.id} has everything else"
    else:
        found = f"nearest is {nearest.id}: {mismatch(nearest, requirement)}"
    return f"no board of {lab.path} can ever fulfil the requirement: {describe(requirement)}; {found}{meant}"


def describe_all(requirements: Sequence[Requirement]) -> str:
    """Several of them in words, those alike counted.

    >>> describe_all([Requirement(cls="pi5"), Requirement(cls="pi5"), Requirement(board_id="b1")])
    '2 × a board of class pi5 and board b1'
    """
    counted = Counter(describe(one) for one in requirements)
    return " and ".join(text if count == 1 else f"{count} × {text}" for text, count in counted.items())

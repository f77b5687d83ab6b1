"""Boards that belong to another lab as well: what we lease here is taken there, for as long as our lease lasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import Lease
from pytest_edgehil.labgrid.places import hold
from pytest_edgehil.model.board import Board


class Claim(Protocol):
    """The right to boards in another lab."""

    def lost(self) -> str | None:
        """Why it is not ours any more; None while it is."""
        ...

    def release(self) -> None:
        """Give it back. Harmless when repeated."""
        ...


Claims = Callable[[Sequence[Board], Sequence[Lease]], Claim | None]
"""Takes leased boards in other labs, all or none; None when they belong to none. Raises PlaceTaken or LeaseError."""


def claims_of(lab: Lab) -> Claims:
    """What takes boards of this lab in the labgrid lab that its file names."""

    def claim(boards: Sequence[Board], leases: Sequence[Lease]) -> Claim | None:
        names = [board.place for board in boards if board.place is not None]
        if lab.labgrid is None or not names:
            return None
        # the token makes the name unique: two leases of one CI job must not pass for each other
        return hold(lab.labgrid, names, lab=lab.name, who=f"{leases[0].holder.name}.{leases[0].token}")

    return claim

"""Places of a labgrid lab: which there are, and holding one for as long as a lease of ours lasts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_edgehil.errors import LabgridError, PlaceTaken
from pytest_edgehil.labgrid.conversation import Conversation, Coordinator


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What an exporter offers for a place: its class in labgrid, such as ``NetworkService``, and its parameters."""

    cls: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place.

    Args:
        name: its name at the coordinator.
        acquired: ``host/user`` of who holds it there.
        tags: its tags.
        resources: what is exported for it now.
    """

    name: str
    acquired: str | None
    tags: Mapping[str, str]
    resources: tuple[Resource, ...]


def places(coordinator: Coordinator) -> tuple[Place, ...]:
    """All places of a coordinator, by name.

    Raises:
        LabgridError: it cannot be asked.
    """
    with Conversation(coordinator, host="edgehil", user="survey") as conversation:
        answer = _required(conversation.ask("places"))
    found = [
        Place(
            name=place["name"],
            acquired=place["acquired"],
            tags=place["tags"],
            resources=tuple(Resource(cls=one["class"], params=one["params"]) for one in place["resources"]),
        )
        for place in answer["places"]
    ]
    return tuple(sorted(found, key=lambda place: place.name))


class Hold:
    """Places that are ours in labgrid until `release`, or until `lost` says otherwise. Made by `hold`."""

    def __init__(self, conversation: Conversation, names: Sequence[str]) -> None:
        self._conversation = conversation
        self._names = tuple(names)

    def lost(self) -> str | None:
        """Which place is not ours any more, and why; None while all are."""
        for name in self._names:
            why = self._conversation.lost(name)
            if why is not None:
                return f"place {name}: {why}"
        return None

    def release(self) -> None:
        """Give all of them back. Harmless when repeated."""
        self._conversation.close()


def hold(coordinator: Coordinator, names: Sequence[str], *, lab: str, who: str) -> Hold:
    """Take places in labgrid, all or none. Whoever dies gives them back.

    Args:
        coordinator: where.
        names: the places.
        lab: what stands for our leases; a place held under it has been left behind, and is taken over.
        who: the holder's name, for people who look into labgrid; no two leases have the same.

    Raises:
        PlaceTaken: somebody else holds one, or its exporter is away.
        LabgridError: the coordinator cannot be asked.
    """
    conversation = Conversation(coordinator, host=f"edgehil-{_word(lab)}", user=_word(who))
    try:
        for name in names:
            _required(conversation.ask("acquire", place=name), place=name)
    except BaseException:
        conversation.close()
        raise
    return Hold(conversation, names)


def _required(answer: dict[str, Any], *, place: str = "") -> dict[str, Any]:
    if "busy" in answer:
        raise PlaceTaken(answer["busy"], place=place)
    if not answer["ok"]:
        raise LabgridError(answer["error"])
    return answer


def _word(text: str) -> str:
    """Labgrid writes a user as ``host/user``: no blanks, no slash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:60] or "edgehil"

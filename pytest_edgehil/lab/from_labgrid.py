"""The beginning of a lab file from the places of a labgrid lab.

What labgrid knows of a board is written down: address, console, power switch, tags. What it does not know stays for a
person, and `load_lab` says line by line what is missing: the board's class, our key, and above all the host key, which
must come from somebody who has seen the board and not from whoever answers at the address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_edgehil.documents.near_miss import listed
from pytest_edgehil.labgrid.places import Place, Resource

_CLASS_TAGS = ("class", "board", "board_class")


def lab_file(places: Sequence[Place], *, coordinator: str, python: str | None, name: str = "labgrid") -> str:
    """A lab file, to be completed by hand.

    Args:
        places: what the coordinator has.
        coordinator: its address, ``HOST:PORT``.
        python: the interpreter that has labgrid, if it is not the one that runs us.
        name: of the lab.
    """
    lines = [
        f"lab: {name}",
        "labgrid:",
        f"  coordinator: {_quoted(coordinator)}",
        *([f"  python: {_quoted(python)}"] if python else []),
        "boards:",
    ]
    for place in places:
        lines += [f"  {line}" for line in _board(place)]
    return "\n".join(lines) + "\n"


def _board(place: Place) -> Iterator[str]:
    classes = [place.tags[tag] for tag in _CLASS_TAGS if tag in place.tags]
    tags = [f"{key}-{value}" for key, value in sorted(place.tags.items()) if key not in _CLASS_TAGS]
    yield f"{re.sub(r'[^A-Za-z0-9._-]', '-', place.name)}:"
    yield f"  place: {_quoted(place.name)}"
    yield f"  class: {_quoted(classes[0])}" if classes else "  class:            # such as pi5-8gb-hat2"
    yield "  environment: hardware"
    if tags:
        yield f"  tags: {_yaml_list(tags)}"
    yield "  ssh:"
    service = _one(place, "NetworkService")
    if service is None:
        yield "    host:           # labgrid exports no NetworkService for this place"
        yield "    user:"
    else:
        yield f"    host: {_quoted(str(service.params['address']))}"
        if service.params.get("port"):
            yield f"    port: {service.params['port']}"
        yield f"    user: {_quoted(str(service.params.get('username') or ''))}"
    yield "    key:            # the private key file that may log in"
    yield "    host_key:       # '<type> <base64>', read at the board's console, not from the network"
    serial = _one(place, "NetworkSerialPort")
    if serial is not None and serial.params.get("port"):
        scheme = "socket" if serial.params.get("protocol") == "raw" else "rfc2217"
        yield f"  console: {scheme}://{serial.params['host']}:{serial.params['port']}"
    power = _one(place, "NetworkPowerPort")
    if power is not None:
        words = f"model: {_quoted(power.params['model'])}, host: {_quoted(power.params['host'])}"
        yield f"  power: {{backend: labgrid, {words}, index: {_quoted(str(power.params['index']))}}}"
    others = sorted({one.cls for one in place.resources} - {"NetworkService", "NetworkSerialPort", "NetworkPowerPort"})
    if others:
        yield f"  # not taken over: {listed(others)}"


def _one(place: Place, cls: str) -> Resource | None:
    return next((one for one in place.resources if one.cls == cls), None)


def _quoted(text: str) -> str:
    """A YAML scalar that is read as text, whatever it holds."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _yaml_list(words: Sequence[str]) -> str:
    """Words as a YAML list on one line.

    >>> _yaml_list(["a", "b c"])
    '["a", "b c"]'
    """
    return "[" + ", ".join(_quoted(word) for word in words) + "]"

"""A device tree read and written, and the machine's own description changed."""

from __future__ import annotations

import pytest

from pytest_edgehil.emulated.image.device_tree import Node, cells, parse, phandles, serialise, text, wide
from pytest_edgehil.errors import ConfigError


def tree() -> Node:
    root = Node(properties={"model": text("board"), "#address-cells": cells(2)})
    root.child("cpus").child("cpu@0").properties |= {"reg": cells(0), "phandle": cells(7)}
    root.child("memory@40000000").properties["reg"] = wide(0x40000000) + wide(2**31)
    return root


def test_what_is_written_is_read_again() -> None:
    assert parse(serialise(tree())) == tree()


def test_a_node_that_is_added_leaves_the_others_as_they_are() -> None:
    changed = parse(serialise(tree()))
    changed.child("chosen").properties["bootargs"] = text("quiet")
    again = parse(serialise(changed))
    assert again.children.pop("chosen").properties == {"bootargs": b"quiet\0"}
    assert again == tree()


def test_every_phandle_is_found() -> None:
    assert list(phandles(tree())) == [7]


@pytest.mark.parametrize("damage", [lambda blob: b"", lambda blob: b"\0" * 64, lambda blob: blob[:-30]])
def test_what_is_no_device_tree_is_refused(damage) -> None:
    with pytest.raises(ConfigError, match="no device tree"):
        parse(damage(serialise(tree())))

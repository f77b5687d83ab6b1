"""A kernel out of its package: the kernel itself, and the modules that an image loads, in the order they need."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from pytest_edgehil.emulated.image.deb import members
from pytest_edgehil.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel.

    Args:
        modules: name → the module, in an order in which they can be loaded.
    """

    image: bytes
    modules: dict[str, bytes]


def read_kernel(package: bytes, wanted: tuple[str, ...], *, label: str) -> Kernel:
    """Take a kernel and its modules, with what they need, out of a package.

    Raises:
        ConfigError: there is no kernel in it, or a module is missing.
    """
    image = b""
    found: dict[str, bytes] = {}
    for member, data in members(package, label):
        if re.search(r"boot/vmlinuz-", member.name):
            image = data
        elif member.name.endswith(".ko"):
            found[_name(PurePosixPath(member.name).stem)] = data
    if not image:
        raise ConfigError(f"{label}: no kernel in it")
    ordered: dict[str, bytes] = {}

    def take(name: str, needed_by: str) -> None:
        if name in ordered:
            return
        if name not in found:
            raise ConfigError(f"{label}: it has no module {name!r}, which {needed_by} needs")
        for other in _depends(found[name]):
            take(other, name)
        ordered[name] = found[name]

    for name in wanted:
        take(_name(name), "the image")
    return Kernel(image=image, modules=ordered)


def _name(text: str) -> str:
    return text.replace("-", "_")


def _depends(module: bytes) -> list[str]:
    """Of ``depends=a,b`` in a module's section .modinfo (kernel, scripts/mod/modpost.c)."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return [_name(one) for one in match[1].decode().split(",") if one] if match else []

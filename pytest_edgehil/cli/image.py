"""``edgehil image``: the images that emulated boards boot.

``build`` makes an image of what its lock pins, in the cache; ``pin`` writes the lock, with the versions that this
machine's package sources have now; ``firmware`` makes an update of an image: a recipe of its root file system;
``prune`` removes from the cache what no board has been started of for long. The same lock gives the same bytes wherever
it is built.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from pytest_edgehil.errors import ConfigError, QuantityError


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser("image", help="images of emulated boards: build them, pin them", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    build = actions.add_parser("build", help="build an image of what its lock pins, and print its digest")
    build.add_argument("--anew", action="store_true", help="build it also when it is there, and compare the bytes")
    build.set_defaults(run=_build)

    pin = actions.add_parser("pin", help="write the lock: the newest versions that are to be had now")
    pin.set_defaults(run=_pin)

    firmware = actions.add_parser("firmware", help="make a recipe for 'edgehil build' of an image's root file system")
    firmware.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where it is put (default: here)")
    firmware.set_defaults(run=_firmware)

    prune = actions.add_parser("prune", help="remove images and templates that have not been used for long")
    prune.add_argument(
        "--unused-for", default="30d", metavar="TIME", help="no board was started of it for so long (default: 30d)"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    prune.set_defaults(run=_prune)

    for action in (build, pin, firmware):
        action.add_argument("image", type=Path, metavar="IMAGE", help="directory with image.yaml")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _build(options: argparse.Namespace) -> int:
    from pytest_edgehil.emulated.image.build import build_image

    image = build_image(options.image, say=_say, anew=options.anew)
    print(f"{image.name} {image.version} {image.digest}\n  {image.directory}")
    return 0


def _firmware(options: argparse.Namespace) -> int:
    from pytest_edgehil.emulated.image.built import find_image
    from pytest_edgehil.emulated.image.disk import copy_sparsely

    image = find_image(options.image, whole=True)
    options.out.mkdir(parents=True, exist_ok=True)
    root, path = options.out / f"{image.name}-{image.version}.ext4", options.out / f"{image.name}-{image.version}.yaml"
    with image.root.open("rb") as source, root.open("wb") as target:
        target.truncate(image.root_bytes)
        copy_sparsely(source, target, 0)
    path.write_text(
        f"track: firmware\nname: {image.name}\nversion: {json.dumps(image.version)}\n"
        f'target: {{name: arm64, board_classes: ["*"]}}\nimages: {{root: {root.name}}}\n'
    )
    print(f"{path}: now 'edgehil build {path}'")
    return 0


def _pin(options: argparse.Namespace) -> int:
    from pytest_edgehil.emulated.image import fetch, recipe
    from pytest_edgehil.places import cache_directory

    found = recipe.load_recipe(options.image)
    lock = fetch.pin(found, cache_directory() / "packages", say=_say)
    path = options.image / recipe.LOCK
    path.write_text(recipe.lock_text(lock))
    print(f"{path}: {len(lock.packages) + 2} packages, {len(lock.tools)} tools, {len(lock.wheels)} wheels")
    return 0


def _age(seconds: float) -> str:
    from pytest_edgehil.model.quantity import format_count, format_duration

    days = int(seconds // 86400)
    return format_count(days, "days") if days else format_duration(seconds * 1e9, digits=2)


def _prune(options: argparse.Namespace) -> int:
    from pytest_edgehil.emulated import pruning
    from pytest_edgehil.model.quantity import duration_ns, format_size
    from pytest_edgehil.places import cache_directory

    try:
        for_s = duration_ns(options.unused_for) / 1e9
    except QuantityError as wrong:
        raise ConfigError(f"--unused-for: {wrong}; 30d is thirty days") from None
    now_s, cache = time.time(), cache_directory()
    freed_bytes = 0
    for one in pruning.unused(cache, now_s=now_s, for_s=for_s):
        if options.dry_run:
            verdict = "would be removed"
        elif pruning.remove(one, now_s=now_s, for_s=for_s):
            verdict = "removed"
        else:
            print(f"{one.path}: {one.what}: kept: it is in use again")
            continue
        freed_bytes += one.size_bytes
        print(f"{one.path}: {one.what}, {format_size(one.size_bytes)}, not used for {_age(one.unused_s)}: {verdict}")
    how = "would be freed" if options.dry_run else "freed"
    print(f"{cache}: {format_size(freed_bytes)} {how}")
    return 0

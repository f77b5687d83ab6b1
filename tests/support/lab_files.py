"""Lab files for tests."""

from __future__ import annotations

from pathlib import Path

from pytest_edgehil.lab.inventory import Lab, load_lab

# two boards with a HAT in one pool, of which one may be leased at a time, and two bare ones
FARM = """\
lab: test-farm
lease_expiry: 10 s
pools: {hats: {limit: 1}}
boards:
  hat-1: {class: pi5-8gb-hat2, environment: virtual, accelerator: hailo10h, pool: hats, tags: [cooled]}
  hat-2: {class: pi5-8gb-hat2, environment: virtual, accelerator: hailo10h, pool: hats}
  bare-1: {class: pi5-4gb, environment: virtual}
  bare-2: {class: pi5-4gb, environment: virtual, tags: [cooled]}
"""


def write_lab(directory: Path, text: str = FARM) -> Path:
    path = directory / "lab.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def make_lab(directory: Path, text: str = FARM) -> Lab:
    return load_lab(write_lab(directory, text))

"""Where things of this user lie that belong to no project: state that must stay, and what can be made anew."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def state_directory() -> Path:
    """``$EDGEHIL_STATE_DIR``, or the user's state directory for edgehil: leases, keys, trust."""
    return _chosen("EDGEHIL_STATE_DIR") or Path(platformdirs.user_state_dir("edgehil"))


def cache_directory() -> Path:
    """``$EDGEHIL_CACHE_DIR``, or the user's cache directory for edgehil: images, templates, bytecode for boards."""
    return _chosen("EDGEHIL_CACHE_DIR") or Path(platformdirs.user_cache_dir("edgehil"))


def _chosen(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().absolute() if value else None

"""``edgehil lab metrics``: the lab in numbers, for Prometheus to fetch from ``/metrics``.

It listens on this host only unless told otherwise. One is enough for a lab, wherever its database can be reached;
``farm/grafana-lab.json`` and ``farm/prometheus-rules.yaml`` go with it.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.errors import ConfigError, ExtraMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_edgehil.lab.inventory import Lab


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser], *, chosen: Callable[[Path | None], Lab]) -> None:
    """Add the action.

    Args:
        actions: those of ``edgehil lab``.
        chosen: which lab a command line means.
    """
    metrics = actions.add_parser("metrics", help="serve the lab's metrics for Prometheus", description=__doc__)
    metrics.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")
    metrics.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this host only)")
    metrics.add_argument("--port", type=int, default=9469, help="port to listen on; 0 takes a free one (default: 9469)")
    metrics.set_defaults(run=lambda options: _metrics(options, chosen(options.lab)))


def _metrics(options: argparse.Namespace, lab: Lab) -> int:
    if not 0 <= options.port < 65536:
        raise ConfigError(f"--port {options.port} is no port: expected 0 to 65535")
    try:
        from prometheus_client import CollectorRegistry, start_http_server

        from pytest_edgehil.reporting.metrics import LabMetrics
    except ModuleNotFoundError as missing:
        raise ExtraMissing(extra="metrics", feature="serving metrics") from missing
    from pytest_edgehil.lab.store import open_store

    registry = CollectorRegistry(auto_describe=False)
    with open_store(lab) as store:
        registry.register(LabMetrics(lab, store, clock=time.time))
        try:
            server, thread = start_http_server(options.port, addr=options.host, registry=registry)
        except OSError as wrong:
            raise ConfigError(
                f"cannot listen on {options.host}:{options.port}: {wrong.strerror or wrong}; choose another --host or "
                "--port"
            ) from wrong
        try:
            print(f"{lab.name}: http://{options.host}:{server.server_port}/metrics", flush=True)
            threading.Event().wait()  # until Ctrl-C
        except KeyboardInterrupt:
            server.shutdown()
            server.server_close()
            thread.join()
    return 0

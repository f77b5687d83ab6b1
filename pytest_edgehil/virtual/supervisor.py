"""The process that is a virtual board: it owns the board's link, console, disk and every process on it.

Started by its warden (see `warden`), which tells it to end by closing a pipe; it also ends on SIGTERM and on the
control verb ``stop``. However it ends in an orderly way, no process of the board is left and its sockets are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_edgehil.errors import ConfigError, EdgehilError, Fenced
from pytest_edgehil.model.fencing import Bearer
from pytest_edgehil.virtual import fence, sysroot
from pytest_edgehil.virtual.blueprint import Blueprint, Endpoint, Layout, write_private
from pytest_edgehil.virtual.console import Console
from pytest_edgehil.virtual.control import LONGEST_SOCKET_PATH, VERBS, VirtualStatus, fault_from
from pytest_edgehil.virtual.journal import Journal
from pytest_edgehil.virtual.keys import board_keys, read_authorized
from pytest_edgehil.virtual.link import HOST, Link
from pytest_edgehil.virtual.machine import Machine
from pytest_edgehil.virtual.processes import become_subreaper
from pytest_edgehil.virtual.sshd import serve
from pytest_edgehil.virtual.thermal import arm_hz, sensor_milli_c


def supervise(blueprint: Blueprint, layout: Layout, *, lifeline: int, report: Callable[[str], None]) -> None:
    """Be the board until it is told to end.

    Args:
        lifeline: a descriptor; its end of file means that the warden is gone.
        report: told once how the start went, as a line of JSON for `farm.start`.
    """
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    become_subreaper()
    asyncio.run(_main(blueprint, layout, lifeline=lifeline, report=report))


async def _main(blueprint: Blueprint, layout: Layout, *, lifeline: int, report: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(lifeline, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        try:
            endpoint = await _assemble(blueprint, layout, stop, stack)
        except EdgehilError as problem:
            kind = "config" if isinstance(problem, ConfigError) else "board"
            report(json.dumps({"ok": False, "kind": kind, "error": str(problem)}))
            return
        except Exception as problem:
            report(json.dumps({"ok": False, "kind": "board", "error": f"{type(problem).__name__}: {problem}"}))
            raise
        report(json.dumps({"ok": True, "endpoint": endpoint.to_json()}))
        await stop.wait()


async def _assemble(
    blueprint: Blueprint, layout: Layout, stop: asyncio.Event, stack: contextlib.AsyncExitStack
) -> Endpoint:
    """Put the board together and switch it on; returns once it runs, or will not by itself."""
    sysroot.provision(blueprint, layout)
    keys = board_keys(layout.keys)
    authorized = [keys.client_public]
    if blueprint.authorized_key is not None:
        authorized.append(read_authorized(Path(blueprint.authorized_key).expanduser()))
    journal = Journal(layout.journal)
    stack.callback(journal.close)
    journal.write("supervisor-start", pid=os.getpid())
    stack.callback(journal.write, "supervisor-stop")
    try:
        link = Link(asyncio.get_running_loop(), port=blueprint.ssh_port)
    except OSError as problem:
        raise ConfigError(
            f"virtual board {blueprint.board_id}: port {blueprint.ssh_port} of {HOST} cannot be had: "
            f"{problem.strerror}; choose another, or 0 for any"
        ) from problem
    stack.callback(link.close)
    console = Console()
    stack.callback(console.close)
    machine = Machine(
        blueprint=blueprint,
        layout=layout,
        link=link,
        console=console,
        journal=journal,
        sign=keys.sign,
        public_key=keys.identity_pem(),
    )
    await serve(
        link,
        machine,
        keys=keys,
        user=blueprint.ssh_user,
        authorized=tuple(authorized),
        disk=layout.disk,
        home=layout.home,
        journal=journal,
    )
    socket_path = _socket_path(layout)
    server = await asyncio.start_unix_server(
        lambda reader, writer: _serve(reader, writer, machine=machine, blueprint=blueprint, layout=layout, stop=stop),
        path=socket_path,
        limit=1 << 20,
    )
    socket_path.chmod(0o600)
    stack.callback(_remove_socket, socket_path, layout)
    stack.callback(server.close)
    endpoint = Endpoint(
        board_id=blueprint.board_id,
        host=HOST,
        port=link.port,
        user=blueprint.ssh_user,
        host_key=keys.host_key,
        client_key=str(keys.client_path),
        console=console.path,
        socket=str(socket_path),
        identity_key=str(keys.identity_public_path),
        pid=os.getpid(),
        warden_pid=os.getppid(),
        blueprint=blueprint,
    )
    stack.push_async_callback(machine.power_off, reason="supervisor ends")
    await machine.power_on()
    for fault in blueprint.faults:  # before the boot, which has not had its first turn yet
        machine.injector.arm(fault)
    stack.callback(layout.endpoint.unlink, missing_ok=True)
    write_private(layout.known_hosts, f"[{HOST}]:{link.port} {keys.host_key}\n".encode())
    endpoint.write(layout.endpoint)
    ended = asyncio.ensure_future(stop.wait())
    settled = asyncio.ensure_future(machine.settled.wait())
    await asyncio.wait({ended, settled}, return_when=asyncio.FIRST_COMPLETED)
    for waiting in (ended, settled):
        waiting.cancel()
    return endpoint


def _socket_path(layout: Layout) -> Path:
    """Where the control socket is: in the board's directory, or where its name is short enough."""
    path = layout.root / "control.sock"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        directory = tempfile.mkdtemp(prefix="edgehil-", dir=None if _short(tempfile.gettempdir()) else "/tmp")  # noqa: S108
        path = Path(directory) / "control.sock"
    path.unlink(missing_ok=True)
    return path


def _short(directory: str) -> bool:
    return len(os.fsencode(directory)) < LONGEST_SOCKET_PATH - len("/edgehil-12345678/control.sock")


def _remove_socket(path: Path, layout: Layout) -> None:
    path.unlink(missing_ok=True)
    if path.parent != layout.root:
        path.parent.rmdir()


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    machine: Machine,
    blueprint: Blueprint,
    layout: Layout,
    stop: asyncio.Event,
) -> None:
    """Answer the requests of one connection to the control socket."""
    try:
        while line := await reader.readline():
            writer.write(json.dumps(await _answer(line, machine, blueprint, layout, stop)).encode() + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):
        return  # whoever asked is gone, or sent a line without end
    finally:
        writer.close()


async def _answer(
    line: bytes, machine: Machine, blueprint: Blueprint, layout: Layout, stop: asyncio.Event
) -> dict[str, Any]:
    try:
        request = json.loads(line)
        verb = request["do"]
    except (ValueError, KeyError, TypeError):
        return {"ok": False, "error": f'{line[:80]!r} is no request: expected {{"do": verb}} on a line'}
    try:
        _check_lease(request, layout, blueprint)
        await _do(verb, request, machine, stop)
    except Fenced as problem:
        return {"ok": False, "code": "fenced", "error": str(problem)}
    except EdgehilError as problem:
        return {"ok": False, "error": str(problem)}
    except Exception as problem:  # noqa: BLE001 - whoever asked must have an answer; the log has the rest
        traceback.print_exc()
        return {"ok": False, "error": f"{type(problem).__name__}: {problem}"}
    return {"ok": True, **asdict(_status(machine, blueprint))}


def _check_lease(request: dict[str, Any], layout: Layout, blueprint: Blueprint) -> None:
    """Refuse who comes under a lease that is over.

    Raises:
        Fenced: a higher token has been seen.
        ConfigError: what it says of its lease cannot be read.
    """
    token, holder = request.get("token"), request.get("holder")
    if token is None and holder is None:
        return
    if type(token) is not int or not isinstance(holder, str):
        raise ConfigError(f"token {token!r:.40} of holder {holder!r:.40}: expected a number and a name")
    fence.enter(layout, Bearer(token=token, holder=holder), board_id=blueprint.board_id)


async def _do(verb: str, request: dict[str, Any], machine: Machine, stop: asyncio.Event) -> None:
    match verb:
        case "power-on":
            await machine.power_on()
        case "power-off":
            await machine.power_off()
        case "power-cycle":
            await machine.power_off()
            await machine.power_on()
        case "inject":
            machine.injector.arm(fault_from(request.get("fault") or {}))
        case "clear-faults":
            machine.injector.clear()
        case "stop":
            await machine.power_off(reason="stopped")
            stop.set()
        case "status":
            return
        case _:
            raise ConfigError(f"unknown verb {verb!r}: expected one of {', '.join(VERBS)}")


def _status(machine: Machine, blueprint: Blueprint) -> VirtualStatus:
    sensed_milli_c = sensor_milli_c(machine.die.temperature_c)
    return VirtualStatus(
        board=blueprint.board_id,
        power="on" if machine.powered else "off",
        state=machine.state.value,
        boot_id=machine.boot_id,
        partition=machine.partition,
        tryboot=machine.tryboot,
        firmware=machine.firmware_text,
        temperature_c=sensed_milli_c / 1000,
        throttled=machine.die.throttled,
        arm_hz=arm_hz(sensed_milli_c / 1000),
        processes=len(machine.table.alive()),
        connections=len(machine.link.wires),
        bytes_in=machine.link.bytes_in,
        bytes_out=machine.link.bytes_out,
        armed=machine.injector.armed,
        levels=machine.injector.levels,
        pid=os.getpid(),
    )

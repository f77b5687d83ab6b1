"""The program that runs in labgrid's own interpreter: takes places for us, and switches power with labgrid's drivers.

It imports labgrid and the standard library, nothing of ours, and nobody imports it. One JSON object per line comes in
on stdin and is answered by one on stdout, in order:

    {"do": "places"}                      {"ok": true, "places": [{"name", "acquired", "tags", "resources"}, …]}
    {"do": "acquire", "place": NAME}      {"ok": true}, or {"ok": false, "busy": why}, or {"ok": false, "error": why}
    {"do": "release", "place": NAME}      {"ok": true}

What nobody asked for comes as an event: {"event": "lost", "place": NAME, "why": …}.

* A place in labgrid never expires. So everything that was acquired is released when stdin ends, and it ends when
  whoever started us dies, also by SIGKILL. Because a fork of theirs may hold the other end of the pipe, a change of our
  parent counts as the end, too.
* A coordinator that restarts forgets who holds what. We connect again and take our places again; a place that
  somebody else took meanwhile is lost, and we say so.
* A place that is held under the name of our own lab has been left behind: whoever asks us holds the lease of that
  board, and leases are exclusive. It is taken over.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from typing import Any

import grpc
from labgrid import target_factory
from labgrid.remote.client import ClientSession
from labgrid.remote.client import Error as SessionError
from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

LOOK_S = 0.5
CONNECT_S = 10.0


class Refused(Exception):
    """Labgrid says no; `busy` when it may say yes later."""

    def __init__(self, why: str, *, busy: bool = False) -> None:
        super().__init__(why)
        self.busy = busy


class Bridge:
    """One connection to a coordinator, and the places that we hold through it."""

    def __init__(self, coordinator: str, write: Any) -> None:
        self._coordinator = coordinator
        self._write = write
        self._session: Any = None
        self._held: set[str] = set()
        self._turn = asyncio.Lock()

    async def serve(self, lines: asyncio.StreamReader) -> None:
        """Answer until the lines end, then give everything back."""
        parent = os.getppid()
        watch = asyncio.create_task(self._watch())
        line: asyncio.Task[bytes] | None = None
        try:
            while os.getppid() == parent:
                line = line or asyncio.create_task(lines.readline())
                await asyncio.wait([line, watch], timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    watch.result()  # a bug of ours: it never ends by itself
                if not line.done():
                    continue
                text, line = line.result(), None
                if not text:
                    break
                async with self._turn:
                    self._write(await self._answer(json.loads(text)))
        finally:
            watch.cancel()
            if line is not None:
                line.cancel()
            async with self._turn:
                for place in sorted(self._held):
                    with contextlib.suppress(Refused, TimeoutError):
                        await asyncio.wait_for(self._release(place), CONNECT_S)
                await self._disconnect()

    async def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            session = await self._connected()
            match asked["do"]:
                case "places":
                    return {"ok": True, "places": [described(session, place) for place in session.places.values()]}
                case "acquire":
                    await self._acquire(asked["place"], take_over=True)
                    self._held.add(asked["place"])
                case "release":
                    self._held.discard(asked["place"])
                    await self._release(asked["place"])
                case unknown:
                    return {"ok": False, "error": f"unknown verb {unknown!r}"}
        except Refused as refused:
            return {"ok": False, "busy" if refused.busy else "error": str(refused)}
        return {"ok": True}

    # --- the connection ------------------------------------------------------------------------------

    async def _connected(self) -> Any:
        alive = self._session is not None and not self._session.stopping.is_set()
        if alive and await self._session.sync_with_coordinator():
            return self._session
        await self._disconnect()
        session = ClientSession(self._coordinator, asyncio.get_running_loop())
        try:
            await asyncio.wait_for(session.start(), CONNECT_S)
        except (SessionError, TimeoutError) as wrong:
            with contextlib.suppress(Exception):
                await session.close()
            raise Refused(f"no labgrid coordinator answers at {self._coordinator}") from wrong
        self._session = session
        return session

    async def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.stopping.set()
            with contextlib.suppress(Exception):  # it is going away, in whatever state it is
                await session.stop()
                await session.close()

    # --- places --------------------------------------------------------------------------------------

    def _ours(self) -> str:
        return f"{self._session.gethostname()}/{self._session.getuser()}"

    def _place(self, name: str) -> Any:
        try:
            return self._session.places[name]
        except KeyError:
            known = ", ".join(sorted(self._session.places)) or "none"
            raise Refused(f"the coordinator has no place {name!r}; its places are {known}") from None

    async def _acquire(self, name: str, *, take_over: bool) -> None:
        place = self._place(name)
        if take_over and place.acquired and place.acquired.partition("/")[0] == self._session.gethostname():
            await self._call(self._session.stub.ReleasePlace, _releasing(name, place.acquired))
            await self._session.sync_with_coordinator()
        elif place.acquired:
            raise Refused(f"{place.acquired} holds the place {name} in labgrid", busy=True)
        if not place.matches:
            raise Refused(f"no resource belongs to the place {name}: it has no match in labgrid yet", busy=True)
        missing = [repr(match) for match in place.matches if not _matching(self._session, match)]
        if missing:
            raise Refused(f"nothing that is exported now matches {', '.join(missing)} of the place {name}", busy=True)
        await self._call(self._session.stub.AcquirePlace, messages.AcquirePlaceRequest(placename=name), busy=True)
        await self._session.sync_with_coordinator()

    async def _release(self, name: str) -> None:
        await self._connected()
        await self._call(self._session.stub.ReleasePlace, _releasing(name, self._ours()))

    async def _call(self, method: Any, request: Any, *, busy: bool = False) -> None:
        try:
            await method(request, timeout=CONNECT_S)
        except grpc.aio.AioRpcError as wrong:
            down = wrong.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
            raise Refused(f"labgrid says: {wrong.details()}", busy=busy and not down) from wrong

    async def _watch(self) -> None:
        """Look after what we hold: take it again after a restart, and tell what is lost."""
        while True:
            await asyncio.sleep(LOOK_S)
            async with self._turn:
                if not self._held:
                    continue
                try:
                    session = await self._connected()
                except Refused:
                    continue  # it is down: nobody else can take a place meanwhile either
                for name in sorted(self._held):
                    place = session.places.get(name)
                    if place is not None and place.acquired == self._ours():
                        continue
                    try:
                        # whoever of our lab has it now has the newer lease: it is not taken back
                        await self._acquire(name, take_over=False)
                    except Refused as refused:
                        place = session.places.get(name)
                        if place is None or not place.acquired:
                            continue  # exporters come back later than the coordinator; nobody else has it so far
                        self._held.discard(name)
                        self._write({"event": "lost", "place": name, "why": str(refused)})


def _releasing(name: str, user: str) -> Any:
    return messages.ReleasePlaceRequest(placename=name, fromuser=user)


def _resources(session: Any) -> Any:
    for exporter, groups in sorted(session.resources.items()):
        for group, resources in sorted(groups.items()):
            for name, resource in sorted(resources.items()):
                if resource.data and resource.avail:
                    yield (exporter, group, resource.cls, name), resource


def _matching(session: Any, match: Any) -> bool:
    return any(match.ismatch(path) for path, _ in _resources(session))


def described(session: Any, place: Any) -> dict[str, Any]:
    """A place with what is exported for it now."""
    return {
        "name": place.name,
        "acquired": place.acquired or None,
        "tags": dict(place.tags),
        "resources": [
            {"class": resource.cls, "params": {key: value for key, value in resource.params.items() if key != "extra"}}
            for path, resource in _resources(session)
            if place.hasmatch(path)
        ],
    }


def power(asked: argparse.Namespace) -> dict[str, Any]:
    """Switch with one of labgrid's network drivers.

    Returns:
        ``{"ok": true, "on": state}``, where the state is null if the model cannot tell; ``{"ok": false, "late": true}``
        if the caller's lease was over before it could begin.
    """
    resource = {"model": asked.model, "host": asked.host, "index": asked.index}
    try:
        target = target_factory.make_target(
            "board",
            {
                "resources": {"NetworkPowerPort": resource},
                "drivers": {"NetworkPowerDriver": {"delay": asked.off_s}},
            },
        )
        driver = target.get_driver("NetworkPowerDriver")
        if asked.until is not None and _uptime_s() >= asked.until:
            return {"ok": False, "late": True}
        if asked.do != "get":
            getattr(driver, asked.do)()
        try:
            state = bool(driver.get())
        except NotImplementedError:
            state = None
    except Exception as wrong:  # noqa: BLE001 -- each model fails in its own way: say it, whatever it is
        return {"ok": False, "error": f"{type(wrong).__name__}: {' '.join(str(wrong).split())}"}
    return {"ok": True, "on": state}


def _uptime_s() -> float:
    with open("/proc/uptime", encoding="ascii") as file:  # noqa: PTH123 -- one line
        return float(file.read().split()[0])


async def _serve(coordinator: str, write: Any) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await Bridge(coordinator, write).serve(lines)


def main() -> None:
    """Run the verb of the command line."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("serve").add_argument("coordinator")
    switch = verbs.add_parser("power")
    switch.add_argument("do", choices=["on", "off", "cycle", "get"])
    for name in ("--model", "--host", "--index"):
        switch.add_argument(name, required=True)
    switch.add_argument("--off-s", type=float, required=True)
    switch.add_argument("--until", type=float, help="seconds of /proc/uptime: do nothing once they have passed")
    asked = parser.parse_args()

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # labgrid prints: that must not come between our lines

    def write(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    if asked.verb == "power":
        write(power(asked))
    else:
        asyncio.run(_serve(asked.coordinator, write))


if __name__ == "__main__":
    main()

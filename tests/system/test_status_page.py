"""The status page as people meet it: served by ``edgehil lab serve``, looked at in a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode

import pytest
from support.lab_files import make_lab

from pytest_edgehil.lab.health import Checkup
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import AuditEvent, BoardStatus, Holder, Visit
from pytest_edgehil.lab.store import open_store

EDGEHIL = str(Path(sys.executable).with_name("edgehil"))
TOKEN = "a-token-of-thirty-two-characters"
CI = Holder(name="ci-841", host="runner-7", pid=4242, user="ci")
HOSTILE = "<script>alert(1)</script> & \"quotes\" 'too'"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@contextmanager
def served(lab: Lab, *options: str) -> Iterator[str]:
    """The address, HOST:PORT."""
    argv = [EDGEHIL, "lab", "serve", "--lab", str(lab.path), "--port", "0", *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://(\S+)/", server.stdout.readline())
            assert found is not None
            yield found[1]
        finally:
            server.terminate()
        assert server.wait(timeout=60) == -signal.SIGTERM


def ask(
    address: str, method: str, path: str, *, cookie: str = "", origin: str | None = None, **form: str
) -> HTTPResponse:
    connection = HTTPConnection(address, timeout=60)
    headers = {"Cookie": cookie} | ({"Origin": origin} if origin else {})
    connection.request(method, path, body=urlencode(form) if form else None, headers=headers)
    answer = connection.getresponse()
    answer.text = answer.read().decode()
    connection.close()
    return answer


def screenshot(url: str, path: Path, *, width: int) -> str:
    """Take one, and return the page as the browser understood it."""
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    chromium += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    chromium += [f"--user-data-dir={path.parent / 'profile'}", f"--window-size={width},1600", "--hide-scrollbars"]
    looked = subprocess.run(
        [*chromium, f"--screenshot={path}", "--dump-dom", url], check=True, capture_output=True, text=True, timeout=150
    )
    assert path.stat().st_size > 5000
    return looked.stdout


@pytest.mark.needs("chromium")
def test_people_see_who_holds_what_who_waits_and_why(lab: Lab, tmp_path: Path):
    with open_store(lab) as store:
        (lease,) = store.acquire([["hat-1"]], holder=CI, expiry_s=3600)
        store.note_check("hat-1", Checkup(temperature_c=61.4), by=CI)
        store.note_visit(
            Visit(
                board_id="bare-1",
                token=1,
                by="run-1",
                test="suites/test_digits.py::test_digits",
                combo="digits-int8 1.0.0",
                status="failed",
                verdicts=(("p95_latency", "FAIL"), ("peak_rss", "PASS")),
                message="p95 13 ms is above 12 ms",
                console=f"Linux version 6.12\nlogin: {HOSTILE}",
            )
        )
        store.quarantine("bare-1", reason=f"the link was lost: {HOSTILE}", by=CI)
        waiter = Holder(name="nightly", host="runner-8", pid=1, user="ci")
        with store.queue_up([["hat-1"]], holder=waiter, expiry_s=3600, priority=2) as place:
            place.advance()
            with served(lab) as address:
                page = screenshot(f"http://{address}/", tmp_path / "desk.png", width=1280)
                screenshot(f"http://{address}/", tmp_path / "phone.png", width=390)
                one = ask(address, "GET", "/boards/bare-1")
                screenshot(f"http://{address}/boards/bare-1", tmp_path / "board.png", width=1000)
                wrong = ask(address, "POST", "/boards/bare-1/restore", reason="by anybody")
        store.release(lease)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "hat-1 leased" in text
    assert "held by ci-841 (pid 4242 on runner-7)" in text
    assert re.search(r"nightly \(pid 1 on runner-8\) priority 2 .*hat-1 is held by ci-841", text)
    assert "<script>" not in page
    assert "&lt;script&gt;" in one.text
    assert "61 °C, healthy" in text
    assert "test_digits failed p95_latency FAIL peak_rss PASS" in text
    assert "Linux version 6.12\nlogin: &lt;script&gt;" in one.text
    assert "p95 13 ms is above 12 ms" in one.text
    assert "read-only" in text
    assert wrong.status == 403
    assert store_states(lab)["bare-1"] is BoardStatus.QUARANTINED
    if os.environ.get("EDGEHIL_KEEP_SCREENSHOTS"):
        for name in ("desk.png", "phone.png", "board.png"):
            (tmp_path / name).rename(Path(os.environ["EDGEHIL_KEEP_SCREENSHOTS"]) / name)


def store_states(lab: Lab) -> dict[str, BoardStatus]:
    with open_store(lab) as store:
        return {state.board_id: state.state for state in store.boards()}


def test_whoever_has_the_token_acts_and_the_audit_names_them(lab: Lab, tmp_path: Path):
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    with served(lab, "--token-file", str(token_file)) as address:
        assert ask(address, "POST", "/login", name="ann", token="guessed-guessed-guessed").status == 403
        forged = ask(address, "POST", "/boards/bare-1/quarantine", cookie="edgehil=ann:00", reason="forged")
        assert forged.status == 403
        login = ask(address, "POST", "/login", name="ann", token=TOKEN)
        assert login.status == 303
        kept = login.headers["Set-Cookie"]
        assert "HttpOnly" in kept
        assert "SameSite=strict" in kept
        cookie = kept.partition(";")[0]

        elsewhere = ask(address, "POST", "/boards/bare-1/quarantine", cookie=cookie, origin="http://evil", reason="x")
        assert elsewhere.status == 403
        assert ask(address, "POST", "/boards/bare-1/quarantine", cookie=cookie, reason="  ").status == 400
        assert ask(address, "POST", "/boards/bare-1/explode", cookie=cookie, reason="x").status == 404
        assert ask(address, "POST", "/boards/bear/restore", cookie=cookie, reason="x").status == 404
        assert store_states(lab)["bare-1"] is BoardStatus.FREE

        done = ask(
            address,
            "POST",
            "/boards/bare-1/quarantine",
            cookie=cookie,
            reason="smells burnt",
            origin=f"http://{address}",
        )
        assert (done.status, done.headers["Location"]) == (303, "/boards/bare-1")
        assert store_states(lab)["bare-1"] is BoardStatus.QUARANTINED
        page = ask(address, "GET", "/boards/bare-1", cookie=cookie)
        assert "smells burnt" in page.text
        assert 'action="/boards/bare-1/restore"' in page.text
        assert ask(address, "POST", "/boards/bare-1/restore", cookie=cookie, reason="aired").status == 303
        with open_store(lab) as store:
            store.acquire([["bare-1"]], holder=CI, expiry_s=3600)
        assert ask(address, "POST", "/boards/bare-1/release", cookie=cookie, reason="needed").status == 303
        assert set(store_states(lab).values()) == {BoardStatus.FREE}
        assert ask(address, "GET", "/healthz").text == "ok\n"
        assert ask(address, "GET", "/nowhere").status == 404
        with open_store(lab) as store:
            for _ in range(250):  # whatever happens elsewhere, a board's page has the board's own history
                store.note("hat-1", AuditEvent.POWER, by=CI, token=None, reason="cycle")
        assert "smells burnt" in ask(address, "GET", "/boards/bare-1").text
        assert "smells burnt" not in ask(address, "GET", "/").text
    with open_store(lab) as store:
        told = [(str(line.event), line.by.name, line.reason) for line in store.audit()]
    assert ("quarantined", "ann", "smells burnt") in told
    assert ("restored", "ann", "aired") in told
    assert ("force-released", "ann", "needed") in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"edgehil: the token file \S+ cannot be read: No such file or directory"),
        ("short", r"edgehil: the token in \S+ has 5 characters, expected at least 16; make one with: "),
    ],
)
def test_a_bad_token_file_is_one_line(lab: Lab, tmp_path: Path, text: str | None, said: str):
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    argv = [
        EDGEHIL,
        "lab",
        "serve",
        "--lab",
        str(lab.path),
        "--token-file",
        str(path),
    ]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2
    assert re.match(said, ended.stderr)
    assert len(ended.stderr.splitlines()) == 1

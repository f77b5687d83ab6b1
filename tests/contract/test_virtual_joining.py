"""A virtual board that runs already is joined by those who want what it was started as, and refused to the others."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.virtual_boards import DEADLINE_S, alive, board, eventually, running

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import Accelerator, Fault, Slots, SshAccess, ThermalModel
from pytest_edgehil.virtual.farm import running_control, served_endpoint, start

REACHED = SshAccess(host="h", port=22, user="Edge", key_path=Path("/a/Key"), host_key="k")
STARTER = """
import sys
from pathlib import Path
from support.virtual_boards import board
from pytest_edgehil.virtual.farm import start
with start(board(), directory=Path(sys.argv[1])) as up:
    print(up.owned, up.endpoint.pid, flush=True)
    sys.stdin.read()
"""


def test_of_two_that_start_a_board_at_once_one_wins_and_one_joins(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, str(tmp_path / "board")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        answers = [one.stdout.readline().split() for one in both]
        assert sorted(owned for owned, _ in answers) == ["False", "True"]
        assert answers[0][1] == answers[1][1]
        joined = both[[owned for owned, _ in answers].index("False")]
        joined.communicate(timeout=DEADLINE_S)
        assert alive(int(answers[0][1])), "who has joined a board does not end it"
    finally:
        for one in both:
            one.send_signal(signal.SIGTERM) if one.poll() is None else None
            one.communicate(timeout=DEADLINE_S)
    eventually(lambda: not alive(int(answers[0][1])))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with running(tmp_path_factory.mktemp("joining") / "board") as up:
        yield up


def test_who_wants_what_runs_joins_it(runs):
    joined = start(board(), directory=runs.layout.root)
    assert not joined.owned
    assert joined.endpoint == runs.endpoint
    joined.stop()
    assert runs.control.status().power == "on", "who has joined a board does not end it"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (board(memory_bytes=4 * 2**30), "with memory 8 GiB; the lab file says memory 4 GiB"),
        (board(tags=("cooled",)), "with tags none; the lab file says tags cooled"),
        (board(runtimes=()), "with runtimes onnxruntime; the lab file says runtimes none"),
        (dataclasses.replace(board(), cls="pi5-4gb"), "with class pi5-8gb-hat2; the lab file says class pi5-4gb"),
        (
            dataclasses.replace(board(), accelerator=Accelerator(kind="hailo8")),
            "with accelerator none; the lab file says accelerator hailo8",
        ),
        (
            dataclasses.replace(board(), ssh=REACHED),
            "ssh.key none; the lab file says ssh.user Edge, ssh_port 22, ssh.key /a/Key",
        ),
        (board(thermal=ThermalModel(ambient_c=60.0)), '"ambient_c": 60.0'),
        (board(faults=(Fault(kind="panic", after_s=3.0),)), 'with faults []; the lab file says faults [{"after_bytes"'),
        (
            dataclasses.replace(board(), slots=Slots(backend="tryboot", partitions=(5, 6))),
            "with slots.partitions 2, 3; the lab file says slots.partitions 5, 6",
        ),
    ],
)
def test_a_board_that_was_started_as_something_else_is_not_joined(runs, wanted, told):
    with pytest.raises(ConfigError) as refused:
        start(wanted, directory=runs.layout.root)
    said = str(refused.value)
    assert "virtual board vb-1 runs already, with " in said
    assert told in said
    assert f"(process {runs.endpoint.warden_pid}; Ctrl-C in 'edgehil farm up')" in said
    assert "\n" not in said


@pytest.mark.parametrize("text", ["", "[]", "\0\xff", '{"port": "1"}', None])
def test_an_endpoint_that_cannot_be_read_is_one_line_and_says_what_to_do(runs, text):
    whole = runs.layout.endpoint.read_text()
    if text is None:  # as an older version wrote it
        document = json.loads(whole)
        del document["blueprint"]
        text = json.dumps(document)
    runs.layout.endpoint.write_text(text)
    try:
        with pytest.raises(ConfigError) as refused:
            start(board(), directory=runs.layout.root)
    finally:
        runs.layout.endpoint.write_text(whole)
    assert "\n" not in str(refused.value)
    assert "endpoint.json is damaged, or another version of pytest-edgehil has written it" in str(refused.value)
    assert "end whoever runs the board" in str(refused.value)


def test_a_damaged_endpoint_that_nobody_serves_does_not_stand_in_the_way(tmp_path):
    with running(tmp_path / "board") as up:
        up.layout.endpoint.write_text("torn")
        pid = up.endpoint.pid
    assert not alive(pid)
    up.layout.endpoint.write_text("torn")
    assert served_endpoint(up.layout.root) is None
    assert running_control(up.layout.root) is None
    with running(tmp_path / "board") as again:
        assert again.owned
        assert again.control.status().power == "on"

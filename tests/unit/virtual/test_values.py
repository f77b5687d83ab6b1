"""What crosses between starter, supervisor and clients."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from pathlib import Path

import pytest
from support.virtual_boards import board

from pytest_edgehil.errors import ConfigError, PowerError
from pytest_edgehil.model.board import Board, Environment, Fault, Slots
from pytest_edgehil.virtual.blueprint import Blueprint, Endpoint, blueprint_of, write_private
from pytest_edgehil.virtual.control import VirtualControl, connectable
from pytest_edgehil.virtual.journal import Journal, read_journal


def test_a_blueprint_survives_the_way_to_the_supervisor():
    one = board(
        tags=("cooled",),
        accelerator="hailo8",
        faults=(Fault(kind="slow-link", after_s=1.5, options={"rate_bytes_per_s": 9.0}), Fault(kind="panic")),
        ssh_port=2222,
    )
    blueprint = blueprint_of(dataclasses.replace(one, slots=Slots(backend="tryboot", partitions=(5, 6))))
    assert Blueprint.from_json(blueprint.to_json()) == blueprint
    assert (blueprint.partitions, blueprint.ssh_port) == ((5, 6), 2222)


def test_a_board_without_a_virtual_section_cannot_be_started():
    with pytest.raises(ConfigError, match="b1 is not virtual"):
        blueprint_of(Board(id="b1", cls="x", environment=Environment.HARDWARE))


def test_private_files_are_private_and_replaced_atomically(tmp_path):
    path = tmp_path / "endpoint.json"
    for content in (b"old", b"new"):
        write_private(path, content)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["endpoint.json"]


def test_an_endpoint_that_is_not_there_is_none(tmp_path):
    assert Endpoint.read(tmp_path / "endpoint.json") is None


def test_the_journal_appends_and_a_line_under_way_is_not_read(tmp_path):
    path = tmp_path / "journal.jsonl"
    for number in range(2):
        journal = Journal(path)
        journal.write("boot", number=number)
        journal.close()
    with path.open("ab") as file:
        file.write(b'{"at_s": 1, "event": "ha')
    assert [(line.event, line.details["number"]) for line in read_journal(path)] == [("boot", 0), ("boot", 1)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    assert read_journal(tmp_path / "journal.jsonl") == ()


@pytest.fixture
def answering(tmp_path: Path):
    """A socket at an overlong path that answers every connection with what the test says."""
    directory = tmp_path / ("long" * 30) / ("longer" * 20)
    directory.mkdir(parents=True)
    path = directory / "control.sock"
    assert len(os.fsencode(path)) > 108
    listener = socket.socket(socket.AF_UNIX)
    with connectable(path) as address:
        listener.bind(address)
    listener.listen()
    answers: list[bytes] = []

    def serve() -> None:
        while answers:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answers.pop(0))

    def begin(*texts: bytes) -> VirtualControl:
        answers.extend(texts)
        threading.Thread(target=serve, daemon=True).start()
        return VirtualControl(path, timeout_s=10)

    yield begin
    listener.close()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b'{"ok": false, "error": "no"}\n', "power-off: no"),
        (b'{"ok": tr', "was cut off"),
        (b"", "was cut off"),
    ],
)
def test_bad_answers_are_power_errors_also_at_an_overlong_path(answering, answer, complaint):
    with pytest.raises(PowerError, match=complaint):
        answering(answer).power_off()


def test_nobody_there_is_a_power_error(tmp_path):
    with pytest.raises(PowerError, match="is its supervisor running"):
        VirtualControl(tmp_path / "control.sock").status()

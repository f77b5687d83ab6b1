"""Pinned host keys and client keys: what is accepted, and what the refusals say."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.keys import access_to, make_key

from pytest_edgehil.board.hostkey import algorithms_for, load_client_key, parse_host_key
from pytest_edgehil.errors import ConfigError

KNOWN = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")


def test_key_may_have_a_comment(tmp_path: Path) -> None:
    public = make_key(tmp_path / "key").public
    assert parse_host_key(f"{public} root@pi5", board_id="b") == parse_host_key(public, board_id="b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 !!!",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 /////w==",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAA",
    ],
)
def test_what_is_no_host_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"pi5-01: ssh.host_key must be '<type> <base64>'"):
        parse_host_key(text, board_id="pi5-01")


@pytest.mark.parametrize(
    ("algorithm", "first"),
    [("ssh-rsa", "rsa-sha2-512"), ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"), ("ssh-ed25519", "ssh-ed25519")],
)
def test_algorithm_of_the_pinned_key_is_offered_first(algorithm: str, first: str, tmp_path: Path) -> None:
    pinned = parse_host_key(make_key(tmp_path / "key", algorithm).public, board_id="b")
    offered = algorithms_for(pinned, KNOWN)
    assert offered[0] == first
    assert sorted(offered) == sorted(KNOWN)


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"])
def test_client_keys_of_every_type_load(algorithm: str, tmp_path: Path) -> None:
    client = make_key(tmp_path / "key", algorithm)
    access = access_to(22, user="u", client=client, host_key="")
    assert load_client_key(access, board_id="b").get_name() == algorithm


def test_client_key_with_a_passphrase_is_refused_without_asking(tmp_path: Path) -> None:
    access = access_to(22, user="u", client=make_key(tmp_path / "key", passphrase="secret"), host_key="")
    with pytest.raises(ConfigError, match="locked by a passphrase"):
        load_client_key(access, board_id="b")


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_file_that_is_no_key_is_refused(content: bytes, tmp_path: Path) -> None:
    client = make_key(tmp_path / "key")
    client.path.write_bytes(content)
    with pytest.raises(ConfigError, match="no private key"):
        load_client_key(access_to(22, user="u", client=client, host_key=""), board_id="b")


def test_missing_client_key_names_its_path(tmp_path: Path) -> None:
    client = make_key(tmp_path / "key")
    client.path.unlink()
    with pytest.raises(ConfigError, match=f"{client.path} cannot be read: No such file"):
        load_client_key(access_to(22, user="u", client=client, host_key=""), board_id="b")

"""Who a board is, and what it measures of itself: both written by the host into what the board reads."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_edgehil.emulated import sensors
from pytest_edgehil.emulated.seed import SEED_BYTES, Seed, dropbear_key, write_seed
from pytest_edgehil.emulated.sensors import Sensors
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.virtual.keys import board_keys


def seed(directory: Path) -> Seed:
    keys = board_keys(directory)
    return Seed(
        hostname="emu-01",
        serial="00ff",
        host_key=directory / "host_ed25519",
        identity_key=directory / "identity.pem",
        authorized_keys=(keys.client_public.export_public_key().decode().strip(),),
    )


def word(path: Path, at: int) -> int:
    return int(struct.unpack_from("<I", path.read_bytes(), at)[0])


def test_a_seed_is_one_document_behind_its_length(tmp_path: Path) -> None:
    packed = seed(tmp_path).pack(epoch_ns=5)
    (size,) = struct.unpack_from(">I", packed)
    document = json.loads(packed[4 : 4 + size])
    assert (document["hostname"], document["serial"], document["epoch_ns"]) == ("emu-01", "00ff", 5)
    assert base64.b64decode(document["identity_key"]).startswith(b"-----BEGIN PRIVATE KEY-----")


def test_two_seeds_of_a_board_stir_differently(tmp_path: Path) -> None:
    one = seed(tmp_path)
    assert one.pack(epoch_ns=5) != one.pack(epoch_ns=5)


def test_the_host_key_for_dropbear_holds_private_and_public_key(tmp_path: Path) -> None:
    board_keys(tmp_path)
    key = serialization.load_ssh_private_key((tmp_path / "host_ed25519").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    data = dropbear_key(tmp_path / "host_ed25519")
    assert data[:19] == b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x40"
    assert data[-32:] == key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def test_a_disk_without_a_seed_reads_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "seed.raw"
    write_seed(path, b"")
    assert path.read_bytes() == bytes(SEED_BYTES)
    write_seed(path, struct.pack(">I", 2) + b"{}")
    assert path.read_bytes()[:6] == b"\0\0\0\x02{}"


@pytest.mark.parametrize(("celsius", "step"), [(65.5, 631), (45.0, 531), (-40.0, 116)])
def test_a_temperature_is_a_step_of_the_sensor(tmp_path: Path, celsius: float, step: int) -> None:
    path = tmp_path / "sensors.bin"
    Sensors(path).set_temperature(celsius)
    assert word(path, sensors.AT + 0x1C) == word(path, sensors.AT + 0x5C) == step


def test_throttled_bits_are_a_word_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "sensors.bin"
    Sensors(path).set_throttled(0x50005)
    assert word(path, sensors.AT + sensors.THROTTLED) == 0x50005


@pytest.mark.parametrize("bits", [-1, 0x1FFFFFFFF])
def test_throttled_bits_beyond_its_word_are_refused(tmp_path: Path, bits: int) -> None:
    with pytest.raises(ConfigError, match="beyond its 32 bits"):
        Sensors(tmp_path / "sensors.bin").set_throttled(bits)
    assert word(tmp_path / "sensors.bin", sensors.AT + sensors.THROTTLED) == 0


def test_a_temperature_beyond_the_sensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="beyond the sensor"):
        Sensors(tmp_path / "sensors.bin").set_temperature(400.0)

"""The key files that a lab names."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from pytest_edgehil.errors import LabFileError
from pytest_edgehil.lab.files import check_files
from pytest_edgehil.lab.inventory import Lab, load_lab

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICe+Trt8L4XG7uDvaE071axUmRumN3feXeyd+hX+0zWS"
LAB = f"""\
lab: rack
boards:
  pi5-01:
    class: pi5-8gb-hat2
    environment: hardware
    ssh:
      host: 10.0.3.11
      user: edge
      key: id
      host_key: {ED25519}
    identity_key: board.pem
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "lab.yaml").write_text(LAB, encoding="utf-8")
    private = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "id").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    (tmp_path / "id").chmod(0o600)
    (tmp_path / "board.pem").write_bytes(public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()))
    return load_lab(tmp_path / "lab.yaml")


def public_pem(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def said(lab: Lab) -> str:
    with pytest.raises(LabFileError) as refused:
        check_files(lab)
    (problem,) = refused.value.problems
    return problem.removeprefix(f"{lab.path}:")


def test_good_key_files_are_accepted(lab: Lab) -> None:
    check_files(lab)


def test_every_missing_file_is_named_where_the_lab_names_it(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "id").unlink()
    (tmp_path / "board.pem").unlink()

    with pytest.raises(LabFileError) as refused:
        check_files(lab)

    assert refused.value.problems == (
        f"{lab.path}:9: boards.pi5-01.ssh.key: there is no file {tmp_path}/id",
        f"{lab.path}:11: boards.pi5-01.identity_key: there is no file {tmp_path}/board.pem",
    )


def test_a_private_key_that_others_can_read_is_refused(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "id").chmod(0o644)

    assert said(lab) == (
        f"9: boards.pi5-01.ssh.key: {tmp_path}/id is open to others (mode 0644): run chmod 600 {tmp_path}/id"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"ssh-ed25519 AAAA me@desk\n", "is no private key: expected a file that begins with '-----BEGIN"),
    ],
)
def test_what_is_no_private_key_is_refused(lab: Lab, tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "id").write_bytes(content)

    assert problem in said(lab)


def test_a_directory_in_place_of_a_key_is_refused(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "id").unlink()
    (tmp_path / "id").mkdir()

    assert said(lab) == f"9: boards.pi5-01.ssh.key: cannot read {tmp_path}/id: Is a directory"


def test_an_identity_key_must_be_the_public_half_on_the_curve_p_256(lab: Lab, tmp_path: Path) -> None:
    identity = tmp_path / "board.pem"

    identity.write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate().public_key()))
    assert said(lab).endswith("board.pem holds another kind of public key: expected ECDSA on the curve P-256")

    identity.write_bytes(public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()))
    assert said(lab).endswith("board.pem holds another kind of public key: expected ECDSA on the curve P-256")

    identity.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    assert "board.pem holds a private key, which must never leave the board" in said(lab)

    identity.write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    assert "board.pem is no PEM public key" in said(lab)

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.signed_evidence import new_board_signer

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.evidence import keys
from pytest_edgehil.evidence.trust import Trust, default_trust, enroll, enrolment_file, load_trust
from pytest_edgehil.model.board import Environment


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEHIL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def pem() -> str:
    return str(new_board_signer().public_key.keyval["public"])


def test_the_lab_key_is_made_on_first_use_and_only_its_owner_can_read_it(state: Path) -> None:
    first = keys.lab_signer()
    path = state / "keys" / "lab.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.lab_signer().public_key == first.public_key


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lab.pem"
    keys.load_or_create_signer(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        keys.load_signer(path)


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lab.pem"
    path.write_text("nonsense")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="private key in PEM"):
        keys.load_signer(path)


def _key_id_of(path: Path) -> str:
    return str(keys.load_or_create_signer(path).public_key.keyid)


def test_processes_that_race_for_a_new_key_end_up_with_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(_key_id_of, [tmp_path / "lab.pem"] * 8))) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["lab.pem"]


def test_a_board_key_must_be_p256_or_ed25519() -> None:
    for private in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        text = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(ConfigError, match=r"expected an ECDSA P-256 or Ed25519"):
            keys.public_key(text, what="board")


def test_default_trust_is_the_own_lab_and_the_enrolled_boards() -> None:
    assert default_trust() == Trust(lab_keys=(), boards=())  # looking makes no keys
    keys.lab_signer()
    text = pem()
    key_id = enroll("pi5-01", kind=Environment.VIRTUAL, pem=text, cls="pi5-8gb-hat2")
    trust = default_trust()
    found = trust.board_key(key_id)
    assert found is not None
    assert (found.board_id, found.kind, found.cls) == ("pi5-01", Environment.VIRTUAL, "pi5-8gb-hat2")
    assert [one.keyid for one in trust.lab_keys] == [keys.lab_signer().public_key.keyid]
    assert key_id == keys.key_id(text)


def test_enrolling_twice_changes_nothing(state: Path) -> None:
    text = pem()
    enroll("pi5-01", kind=Environment.VIRTUAL, pem=text)
    before = enrolment_file(state).read_bytes()
    enroll("pi5-01", kind=Environment.VIRTUAL, pem=text)
    assert enrolment_file(state).read_bytes() == before


def test_a_virtual_board_that_was_wiped_may_have_a_new_key() -> None:
    enroll("pi5-01", kind=Environment.VIRTUAL, pem=pem())
    enroll("pi5-01", kind=Environment.VIRTUAL, pem=pem())
    assert len(default_trust().boards) == 2


def test_a_virtual_key_never_becomes_a_hardware_key() -> None:
    text = pem()
    enroll("pi5-01", kind=Environment.VIRTUAL, pem=text)
    for board_id in ("pi5-01", "pi5-99"):
        with pytest.raises(ConfigError, match="is enrolled as virtual board pi5-01"):
            enroll(board_id, kind=Environment.HARDWARE, pem=text)


def test_a_second_key_for_a_hardware_board_is_refused() -> None:
    enroll("pi5-01", kind=Environment.HARDWARE, pem=pem())
    for kind in (Environment.HARDWARE, Environment.VIRTUAL):
        with pytest.raises(ConfigError, match="another key"):
            enroll("pi5-01", kind=kind, pem=pem())


def _enroll(state: str, number: int) -> None:
    enroll(f"pi5-{number}", kind=Environment.VIRTUAL, pem=pem(), state_dir=Path(state))


def test_processes_that_enroll_at_once_lose_no_board(state: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(_enroll, [(str(state), i) for i in range(12)])
    assert len(default_trust().boards) == 12


def test_a_trust_file_holds_keys_as_hex_text_and_path(tmp_path: Path) -> None:
    lab = keys.load_or_create_signer(tmp_path / "lab.pem")
    raw_hex = lab.public_key.keyval["public"]
    (tmp_path / "board.pem").write_text(pem())
    path = tmp_path / "trust.yaml"
    path.write_text(
        f"trust: 1\nlab_keys:\n  - key: ed25519:{_raw_hex(lab.public_key)}\n"
        "boards:\n  - {board: pi5-01, kind: hardware, class: pi5-8gb-hat2, path: board.pem}\n"
    )
    trust = load_trust(path)
    assert raw_hex
    assert trust.lab_keys[0].keyid == lab.public_key.keyid
    assert trust.boards[0].kind is Environment.HARDWARE


def _raw_hex(key: object) -> str:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    value = key.keyval["public"]  # type: ignore[attr-defined]
    if not value.startswith("-----"):
        return str(value)
    return load_pem_public_key(value.encode()).public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trust: 1\nboard: []\n", r"trust.yaml:2: board: unknown key; did you mean 'boards'\?"),
        (
            "trust: 1\nboards:\n  - {board: a, kind: real, path: x}\n",
            r"trust.yaml:3: boards\[0\].kind: unknown value 'real'; expected",
        ),
        ("trust: 1\nboards:\n  - {board: a, kind: virtual}\n", r"trust.yaml:3: boards\[0\]: give either key or path"),
        ("trust: 1\nlab_keys:\n  - path: none.pem\n", r"trust.yaml:3: lab_keys\[0\].path: .*none.pem cannot be read"),
        (
            "trust: 1\nlab_keys:\n  - key: ed25519:zz\n",
            r"trust.yaml:3: lab_keys\[0\].key: expected 64 hexadecimal digits",
        ),
        ("trust: 1\ntrust: 1\n", r"trust.yaml:2: trust: this key is already given in line 1"),
        ("trust: 2\n", r"trust.yaml:1: trust: expected 1, found the number 2"),
        ("- 1\n", "expected a mapping of keys to values, found a list"),
        ("trust: [\n", r"trust.yaml:2: "),
    ],
)
def test_a_bad_trust_file_is_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trust.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_trust(path)


def test_one_key_has_one_role() -> None:
    board = new_board_signer()
    enroll("pi5-01", kind=Environment.VIRTUAL, pem=board.public_key.keyval["public"])
    boards = default_trust().boards
    with pytest.raises(ConfigError, match="one key has one role"):
        Trust(lab_keys=(board.public_key,), boards=boards)

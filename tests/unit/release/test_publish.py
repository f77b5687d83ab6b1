from __future__ import annotations

import dataclasses
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.released import Shop, pack, reference
from support.signed_evidence import ACCURACY, P95, SOAK, forge, sample
from tuf.api.exceptions import ExpiredMetadataError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Targets, Timestamp
from tuf.ngclient import Updater

from pytest_edgehil.errors import ConfigError, ReleaseRefused
from pytest_edgehil.evidence import keys as key_files
from pytest_edgehil.evidence.canonical import digest_of
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.board import Environment, Timing
from pytest_edgehil.model.record import GateUse, Status
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.release import repository as repository_module
from pytest_edgehil.release.policy import load_policy
from pytest_edgehil.release.repository import Repository, init_repository

HARDWARE = {"board_id": "pi5-h1", "environment": Environment.HARDWARE}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.init()
    return made


def reasons(shop: Shop, **changes: Any) -> str:
    with pytest.raises(ReleaseRefused) as refusal:
        shop.publish(**changes)
    assert Repository(shop.repo, shop.keys).released() == ()
    return "\n".join(refusal.value.reasons)


# --- what a device sees --------------------------------------------------------------------------------


def test_a_device_downloads_and_verifies_what_was_published(shop: Shop) -> None:
    shop.write()
    published = shop.publish()
    client = shop.client()
    client.refresh()
    target = client.get_targetinfo(published.target.path)
    assert target is not None
    downloaded = Path(client.download_target(target))
    assert downloaded.read_bytes() == shop.artifact.path.read_bytes()
    assert target.custom["seq"] == 1
    assert target.custom["evidence"] == digest_of((shop.bench.directory / "index.dsse.json").read_bytes())
    assert target.custom["policy"] == digest_of(shop.policy_file.read_bytes())


@pytest.mark.parametrize("missing", ["releaser", "gate"])
def test_a_device_refuses_a_target_with_one_signature_of_two(shop: Shop, missing: str) -> None:
    shop.write()
    published = shop.publish()
    sign_models_without(shop, missing)
    client = shop.client()
    client.refresh()
    with pytest.raises(UnsignedMetadataError, match="models was signed by 1/2 keys"):
        client.get_targetinfo(published.target.path)


def sign_models_without(shop: Shop, missing: str) -> None:
    """What somebody with all keys but one can do: a consistent repository, whose models one key has signed."""
    metadata = shop.repo / "metadata"
    path = metadata / "2.models.json"
    models: Metadata[Targets] = Metadata.from_bytes(path.read_bytes())
    models.signatures.clear()
    models.sign(key_files.load_signer(shop.keys / f"{'gate' if missing == 'releaser' else 'releaser'}.pem"))
    path.write_bytes(models.to_bytes())
    snapshot = Metadata.from_bytes((metadata / "2.snapshot.json").read_bytes())
    snapshot.signed.meta["models.json"] = repository_module._meta(2, path.read_bytes())
    (metadata / "2.snapshot.json").write_bytes(
        repository_module._signed(snapshot, key_files.load_signer(shop.keys / "snapshot.pem"))
    )
    timestamp = Metadata.from_bytes((metadata / "timestamp.json").read_bytes())
    timestamp.signed.snapshot_meta = repository_module._meta(2, (metadata / "2.snapshot.json").read_bytes())
    (metadata / "timestamp.json").write_bytes(
        repository_module._signed(timestamp, key_files.load_signer(shop.keys / "timestamp.pem"))
    )


def test_a_mirror_that_alters_an_artifact_is_noticed(shop: Shop) -> None:
    shop.write()
    published = shop.publish()
    (stored,) = (shop.repo / "targets" / "models").iterdir()
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    client = shop.client()
    client.refresh()
    target = client.get_targetinfo(published.target.path)
    assert target is not None
    with pytest.raises(RepositoryError):
        client.download_target(target)


def test_the_firmware_role_cannot_publish_a_model(shop: Shop) -> None:
    shop.write()
    published = shop.publish()
    repository = Repository(shop.repo, shop.keys)
    stolen = repository._roles["models"].signed.targets.pop(published.target.path)
    repository._roles["firmware"].signed.targets[published.target.path] = stolen
    for role in ("models", "firmware"):
        metadata = repository._roles[role]
        metadata.signed.version += 1
        repository._store(
            role,
            repository_module._signed(metadata, repository._signer("releaser"), repository._signer("gate")),
            metadata.signed.version,
        )
    repository._sign_snapshot(shop.now)
    repository._sign_timestamp(shop.now)
    client = shop.client()
    client.refresh()
    assert client.get_targetinfo(published.target.path) is None


def test_an_old_repository_is_refused_by_a_device_that_has_seen_a_newer_one(shop: Shop) -> None:
    old = shop.directory / "old"
    shutil.copytree(shop.repo, old)
    shop.write()
    shop.publish()
    shop.client().refresh()
    shutil.rmtree(shop.repo)
    old.rename(shop.repo)
    with pytest.raises(RepositoryError):
        shop.client().refresh()


def test_a_timestamp_expires_within_a_day(shop: Shop) -> None:
    timestamp: Metadata[Timestamp] = Metadata.from_bytes((shop.repo / "metadata" / "timestamp.json").read_bytes())
    assert timestamp.signed.expires.timestamp() <= shop.now + 86400


def test_a_frozen_repository_is_refused_after_a_day_and_refresh_thaws_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    init_repository(shop.repo, shop.keys, now=shop.now - 2 * 86400)
    with pytest.raises(ExpiredMetadataError):
        shop.client().refresh()
    Repository(shop.repo, shop.keys).refresh(now=shop.now)
    shop.client("another").refresh()


def test_refresh_renews_what_would_expire_soon(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    init_repository(shop.repo, shop.keys, now=shop.now - 80 * 86400)
    Repository(shop.repo, shop.keys).refresh(now=shop.now)
    client = shop.client()
    client.refresh()
    assert client.get_targetinfo("models/none.tar.gz") is None


# --- when the policy is not fulfilled ------------------------------------------------------------------


def test_evidence_about_other_bytes_releases_nothing(shop: Shop) -> None:
    shop.write()
    other = pack(shop.directory / "other", content=b"other model")
    assert "no evidence is about" in reasons(shop, artifact=other)


def test_a_required_gate_that_was_skipped_is_missed(shop: Shop) -> None:
    shop.write(shop.record(gates=(P95,)))
    assert reasons(shop) == "gate accuracy on pi5-8gb-hat2: no evidence that counts"


def test_a_failed_gate_refuses_however_many_others_passed(shop: Shop) -> None:
    shop.write(shop.record(), shop.record(), shop.record(measured=sample(latency_ms=14)))
    assert "gate p95_latency says FAIL" in reasons(shop)


def test_an_ordinary_test_that_failed_refuses(shop: Shop) -> None:
    parity = dataclasses.replace(
        shop.record(), verdicts=(), gates=(), attestations=(), status=Status.FAILED, message="logits differ"
    )
    shop.write(shop.record(), parity)
    assert reasons(shop) == "suites/test_digits.py::test_1 ended as failed: logits differ"


def test_an_attempt_that_was_put_back_does_not_count_against_the_model(shop: Shop) -> None:
    broken = dataclasses.replace(
        shop.record(), verdicts=(), gates=(), attestations=(), status=Status.INFRASTRUCTURE, requeued=True
    )
    shop.write(broken, shop.record())
    assert not shop.publish().already


def test_a_looser_limit_than_the_policy_is_refused(shop: Shop) -> None:
    loose = GateUse(name="p95_latency", arguments={"budget_ns": 20_000_000, "alpha": 0.05})
    shop.write(shop.record(gates=(loose, ACCURACY)))
    assert "its limit was 2e+07 ns, looser than the policy's 12 ms" in reasons(shop)


def test_a_limit_where_more_is_better_is_compared_the_other_way(shop: Shop) -> None:
    loose = GateUse(name="accuracy", arguments={"agreement": 0.9})
    shop.write(shop.record(gates=(P95, loose)))
    assert "its limit was 0.9 fraction, looser than the policy's 0.98" in reasons(shop)


def test_a_limit_on_a_loss_is_no_limit_on_a_share(tmp_path: Path) -> None:
    policy = "policy: p\nenvironments: [virtual]\nboard_classes: ['*']\ngates: {drop: {at_least: 0.98}}\n"
    shop = Shop(tmp_path, policy=policy)
    shop.init()
    shop.write(shop.record(gates=(GateUse(name="drop", arguments={"most": 0.5}),)))
    assert "asks for at least 0.98, but the gate looked the other way" in reasons(shop)


def undecided(name: str) -> tuple[tuple[GateUse, ...], Sample]:
    """Two gates, of which that one has nothing to judge."""
    measured = sample()
    nothing = np.empty(0, dtype=np.int64)
    return (ACCURACY, GateUse(name=name, arguments={"budget_ns": 1})), measured.replace(
        latencies_ns=nothing, starts_ns=nothing
    )


def test_a_required_gate_that_stayed_undecided_refuses(shop: Shop) -> None:
    gates, measured = undecided("p95_latency")
    shop.write(shop.record(), shop.record(gates=gates, measured=measured, status=Status.INCONCLUSIVE))
    assert "gate p95_latency says INCONCLUSIVE" in reasons(shop)


def test_an_undecided_gate_that_nobody_asks_for_is_noted(tmp_path: Path) -> None:
    policy = "policy: p\nenvironments: [virtual]\nboard_classes: ['*']\ngates: {accuracy: {at_least: 0.98}}\n"
    shop = Shop(tmp_path, policy=policy)
    shop.init()
    gates, measured = undecided("p95_latency")
    shop.write(shop.record(gates=gates, measured=measured, status=Status.INCONCLUSIVE))
    (note,) = shop.publish().notes
    assert "gate p95_latency says INCONCLUSIVE" in note


def test_a_larger_error_rate_than_the_policy_is_refused(shop: Shop) -> None:
    loose = GateUse(name="p95_latency", arguments={"budget_ns": 12_000_000, "alpha": 0.5})
    shop.write(shop.record(gates=(loose, ACCURACY)))
    assert "its error rate was 0.5" in reasons(shop)


def test_evidence_made_under_a_looser_policy_is_refused(shop: Shop) -> None:
    shop.write()
    shop.policy_file.write_text(shop.policy_file.read_text().replace("12 ms", "12.0 ms"))
    assert "it was made under the policy sha256:" in reasons(shop)


def test_evidence_made_under_no_policy_is_refused(shop: Shop) -> None:
    shop.bench.run = dataclasses.replace(shop.bench.run, policy_digest=None)
    shop.write()
    assert "not started under a policy; run pytest with --edgehil-policy" in reasons(shop)


def test_evidence_that_is_too_old_is_refused(shop: Shop) -> None:
    shop.write()
    assert "old, the policy takes 168 h" in reasons(shop, now=shop.now + 8 * 86400)


def test_a_board_of_another_class_does_not_count(shop: Shop) -> None:
    shop.write(shop.record(cls="pi5-4gb"))
    assert "class pi5-4gb is none of pi5-8gb-hat2" in reasons(shop)


def test_other_bytes_on_the_board_than_here_are_noticed_by_their_size(shop: Shop) -> None:
    shop.write(shop.record(measured=sample().replace(artifact_size_bytes=1)))
    assert "it measured an artifact of 1 bytes" in reasons(shop)


def test_a_problem_of_the_evidence_is_a_reason(shop: Shop) -> None:
    shop.write(shop.record(), shop.record())
    shop.bench.envelope_files()[0].unlink()
    assert "it was left out" in reasons(shop)


@pytest.mark.parametrize("signature", ["lab", "board"])
def test_evidence_with_one_signature_of_two_is_a_reason(shop: Shop, signature: str) -> None:
    shop.write()
    signer = shop.bench.lab if signature == "lab" else shop.bench.signers["pi5-v1"]
    forge(shop.bench, shop.bench.envelope_files()[0], lambda _: None, signers=[signer])
    assert "it is not signed by" in reasons(shop)


def test_every_reason_is_given_once(shop: Shop) -> None:
    shop.write(shop.record(gates=(P95,), measured=sample(latency_ms=14), status=Status.FAILED, message="p95 missed"))
    assert reasons(shop).splitlines() == [
        "suites/test_digits.py::test_1 on pi5-v1: gate p95_latency says FAIL: as observed",
        "gate accuracy on pi5-8gb-hat2: no evidence that counts",
    ]


# --- hardware ------------------------------------------------------------------------------------------


@pytest.fixture
def hardware(tmp_path: Path) -> Shop:
    made = Shop(
        tmp_path,
        policy="policy: hw\nenvironments: [hardware]\nboard_classes: [pi5-8gb-hat2]\ngates: {p95_latency: {}}\n",
    )
    made.init()
    return made


def test_hardware_fulfils_a_policy_for_hardware(hardware: Shop) -> None:
    hardware.write(hardware.record(**HARDWARE))
    assert not hardware.publish().already


def test_a_virtual_board_never_fulfils_a_policy_for_hardware(hardware: Shop) -> None:
    hardware.write()
    assert "its board is virtual, the policy asks for hardware" in reasons(hardware)


def test_a_virtual_board_that_claims_to_be_hardware_does_not_either(hardware: Shop) -> None:
    hardware.write()

    def rewrite(value: dict[str, Any]) -> None:
        value["predicate"]["environment"]["kind"] = "hardware"

    signers = [hardware.bench.signers["pi5-v1"], hardware.bench.lab]
    forge(hardware.bench, hardware.bench.envelope_files()[0], rewrite, signers=signers)
    assert "the key that signed is enrolled as virtual" in reasons(hardware)


def test_a_recording_never_fulfils_a_policy_for_hardware(hardware: Shop) -> None:
    hardware.write(hardware.record(**HARDWARE, measured=sample(replayed=True)))
    assert "its samples were played back from a recording" in reasons(hardware)


def test_a_virtual_run_that_failed_does_not_hold_up_hardware(hardware: Shop) -> None:
    slow = hardware.record(measured=sample(latency_ms=14), status=Status.FAILED)
    hardware.write(slow, hardware.record(**HARDWARE))
    assert not hardware.publish().already


# --- companions ----------------------------------------------------------------------------------------


def test_gates_that_were_measured_beside_different_firmware_do_not_add_up(shop: Shop) -> None:
    model = reference(shop.artifact)
    one, other = (
        reference(pack(shop.directory / f"fw{i}", name="edge-os", version=f"{i}.0", track=Track.FIRMWARE))
        for i in (1, 2)
    )
    shop.write(shop.record(combo=(one, model), gates=(P95,)), shop.record(combo=(other, model), gates=(ACCURACY,)))
    assert "those do not add up" in reasons(shop)


def test_another_firmware_than_the_policy_lists_is_refused(tmp_path: Path) -> None:
    firmware = pack(tmp_path / "fw", name="edge-os", track=Track.FIRMWARE)
    wanted = "sha256:" + "ab" * 32
    shop = Shop(
        tmp_path / "shop",
        policy=(
            "policy: p\nenvironments: [virtual]\nboard_classes: ['*']\ngates: {p95_latency: {}}\n"
            f"companions: {{firmware: ['{wanted}']}}\n"
        ),
    )
    shop.init()
    shop.write(shop.record(combo=(reference(firmware), reference(shop.artifact))))
    assert "which the policy does not list" in reasons(shop)


@pytest.mark.parametrize(("rule", "there", "message"), [
    ("required", False, "no firmware was on the board beside it"),
    ("none", True, "was on the board beside it"),
])  # fmt: skip
def test_companions_can_be_required_and_forbidden(tmp_path: Path, rule: str, there: bool, message: str) -> None:
    firmware = pack(tmp_path / "fw", name="edge-os", track=Track.FIRMWARE)
    shop = Shop(
        tmp_path / "shop",
        policy=(
            "policy: p\nenvironments: [virtual]\nboard_classes: ['*']\ngates: {p95_latency: {}}\n"
            f"companions: {{firmware: {rule}}}\n"
        ),
    )
    shop.init()
    combo = (reference(firmware), reference(shop.artifact)) if there else (reference(shop.artifact),)
    shop.write(shop.record(combo=combo))
    assert message in reasons(shop)


def test_a_firmware_is_released_beside_the_good_model_though_a_bad_one_failed(shop: Shop) -> None:
    firmware = pack(shop.directory / "fw", name="edge-os", version="2026.11", track=Track.FIRMWARE)
    bad = pack(shop.directory / "bad", name="digits-bad", content=b"bad")
    subjects = (Track.MODEL, Track.FIRMWARE)
    shop.write(
        shop.record(combo=(reference(firmware), reference(shop.artifact)), subjects=subjects),
        shop.record(
            combo=(reference(firmware), reference(bad)),
            subjects=subjects,
            status=Status.FAILED,
            measured=sample(latency_ms=14),
        ),
    )
    assert "says FAIL" in reasons(shop, artifact=firmware)
    published = shop.publish(artifact=firmware, beside=[shop.artifact.digest])
    assert published.target.path == "firmware/edge-os-2026.11-pi5.tar.gz"


# --- soak ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("duration_s", "published"), [(3600.0, True), (20.0, False)])
def test_a_soak_counts_for_as_long_as_it_really_lasted(tmp_path: Path, duration_s: float, published: bool) -> None:
    shop = Shop(
        tmp_path,
        policy=(
            "policy: p\nenvironments: [virtual]\nboard_classes: ['*']\ngates: {soak: {}}\nsoak: {min_duration: 1 h}\n"
        ),
    )
    shop.init()
    shop.write(shop.record(gates=(SOAK,), measured=sample(duration_s=duration_s)))
    if published:
        assert not shop.publish().already
    else:
        assert reasons(shop) == "soak on *: 20 s, the policy asks for 1 h"


# --- counted instructions ------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [False, True])
def test_a_ratio_of_counted_instructions_is_no_time_unless_the_policy_takes_it(tmp_path: Path, taken: bool) -> None:
    policy = "policy: p\nenvironments: [virtual]\nboard_classes: ['*']\ngates: {p95_latency: {}, accuracy: {}}\n"
    shop = Shop(tmp_path, policy=policy + ("timings: [wall, icount]\n" if taken else ""))
    shop.init()
    shop.write(shop.record(measured=sample().replace(timing=Timing.ICOUNT)))
    if taken:
        assert not shop.publish().already
    else:
        assert reasons(shop) == (
            "gate p95_latency on *: it was timed in counted instructions (timing: icount), which are no seconds"
        )


def test_a_time_on_a_clock_is_named_where_the_policy_takes_counted_instructions_only(tmp_path: Path) -> None:
    policy = "policy: p\nenvironments: [virtual]\nboard_classes: ['*']\ngates: {p95_latency: {}}\ntimings: [icount]\n"
    shop = Shop(tmp_path, policy=policy)
    shop.init()
    shop.write(shop.record())
    assert reasons(shop).endswith(
        "it was timed on a clock (timing: wall), and the policy takes counted instructions only"
    )


# --- nonces, seq, idempotence, interruption -----------------------------------------------------------


def test_publishing_twice_changes_nothing(shop: Shop) -> None:
    shop.write()
    first = shop.publish()
    before = {one: one.read_bytes() for one in shop.repo.rglob("*") if one.is_file()}
    again = shop.publish()
    assert again.already
    assert again.target == first.target
    assert {one: one.read_bytes() for one in shop.repo.rglob("*") if one.is_file()} == before


def test_what_was_released_under_one_policy_is_not_released_under_another(shop: Shop, tmp_path: Path) -> None:
    shop.write()
    shop.publish()
    stricter = tmp_path / "stricter.yaml"
    stricter.write_text(shop.policy_file.read_text() + "\n# stricter\n")
    before = {one: one.read_bytes() for one in shop.repo.rglob("*") if one.is_file()}
    with pytest.raises(ReleaseRefused, match="under another policy") as refused:
        shop.publish(policy=load_policy(stricter))
    assert load_policy(stricter).digest in refused.value.reasons[0]
    assert {one: one.read_bytes() for one in shop.repo.rglob("*") if one.is_file()} == before


def test_the_same_name_and_version_with_other_bytes_is_refused(shop: Shop) -> None:
    shop.write()
    shop.publish()
    other = pack(shop.directory / "other", content=b"other model")
    with pytest.raises(ReleaseRefused, match="is released with other bytes; raise its version"):
        shop.publish(artifact=other)


def test_renaming_the_file_does_not_make_it_another_release(shop: Shop) -> None:
    shop.write()
    shop.publish()
    renamed = shop.directory / "renamed.tar.gz"
    shutil.copy(shop.artifact.path, renamed)
    assert shop.publish(artifact=dataclasses.replace(shop.artifact, path=renamed)).already


def test_seq_grows_with_every_release(shop: Shop) -> None:
    other = pack(shop.directory / "other", version="1.1.0", content=b"newer")
    shop.write(shop.record(), shop.record(combo=(reference(other),), measured=sample()))
    assert [shop.publish().target.seq, shop.publish(artifact=other).target.seq] == [1, 2]
    assert [one.seq for one in Repository(shop.repo, shop.keys).released()] == [1, 2]


def test_a_nonce_that_an_earlier_release_used_up_is_refused(shop: Shop) -> None:
    shop.write(shop.record(nonce="ab" * 16))
    shop.publish()
    other = pack(shop.directory / "other", version="1.1.0", content=b"newer")
    replayed = shop.bench
    replayed.run = dataclasses.replace(replayed.run, run_id="run-2")
    shop.write(shop.record(nonce="ab" * 16, combo=(reference(other),), measured=sample()))
    with pytest.raises(ReleaseRefused) as refusal:
        shop.publish(artifact=other)
    assert "its nonce was used up by release 1" in refusal.value.reasons[0]


class _PowerCut(BaseException):
    pass


def _writes(shop: Shop, monkeypatch: pytest.MonkeyPatch, *, cut_at: int | None) -> int:
    """Publish, and cut the power before the write of that number; returns how many writes there were."""
    count = 0
    true_write = repository_module.write_atomically

    def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
        nonlocal count
        if count == cut_at:
            raise _PowerCut
        count += 1
        true_write(path, data, mode=mode)

    monkeypatch.setattr(repository_module, "write_atomically", write)
    try:
        shop.publish()
    finally:
        monkeypatch.setattr(repository_module, "write_atomically", true_write)
    return count


def test_a_publication_that_is_cut_off_leaves_the_old_repository_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Shop(tmp_path / "whole")
    whole.init()
    whole.write()
    total = _writes(whole, monkeypatch, cut_at=None)
    assert total == 4  # artifact, models, snapshot, timestamp
    for cut_at in range(total):
        shop = Shop(tmp_path / f"cut-{cut_at}")
        shop.init()
        shop.write()
        with pytest.raises(_PowerCut):
            _writes(shop, monkeypatch, cut_at=cut_at)
        client = shop.client()
        client.refresh()
        path = "models/digits-1.0.0-pi5-int8-static.tar.gz"
        assert client.get_targetinfo(path) is None
        assert shop.publish().target.path == path
        after = shop.client("after")
        after.refresh()
        assert after.get_targetinfo(path) is not None


def test_a_repository_that_was_put_back_is_noticed_by_the_publisher(shop: Shop) -> None:
    old = shop.directory / "old"
    shutil.copytree(shop.repo, old)
    others = [pack(shop.directory / f"v{i}", version=f"1.{i}.0", content=bytes([i])) for i in (1, 2, 3)]
    shop.write(*(shop.record(combo=(reference(one),), measured=sample()) for one in others))
    for one in others[:2]:
        shop.publish(artifact=one)
    shutil.rmtree(shop.repo)
    old.rename(shop.repo)
    with pytest.raises(ConfigError, match="somebody put an old copy back"):
        shop.publish(artifact=others[2])


def test_metadata_that_somebody_else_signed_is_never_signed_on(shop: Shop) -> None:
    path = shop.repo / "metadata" / "1.models.json"
    value = json.loads(path.read_text())
    value["signed"]["targets"]["models/evil.tar.gz"] = {"length": 1, "hashes": {"sha256": "00" * 32}}
    path.write_text(json.dumps(value))
    shop.write()
    with pytest.raises(ConfigError, match="it is not what the metadata above it says"):
        shop.publish()


def test_a_root_that_came_with_the_repository_is_not_believed(shop: Shop) -> None:
    other = Shop(shop.directory / "other")
    other.init()
    with pytest.raises(ConfigError, match="signatures do not hold"):
        Repository(other.repo, shop.keys)


def test_without_the_gates_key_nothing_is_published(shop: Shop) -> None:
    shop.write()
    (shop.keys / "gate.pem").unlink()
    with pytest.raises(ConfigError, match="the gate key is not here"):
        shop.publish()
    assert Repository(shop.repo, shop.keys).released() == ()


def test_private_keys_are_readable_by_their_owner_only(shop: Shop) -> None:
    assert {stat.S_IMODE(one.stat().st_mode) for one in shop.keys.glob("*.pem")} == {0o600}
    assert stat.S_IMODE(shop.keys.stat().st_mode) == 0o700


def test_a_second_init_is_refused(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="there is a repository"):
        shop.init()


def test_a_device_needs_no_network(shop: Shop) -> None:
    assert isinstance(shop.client(), Updater)

"""A run leaves the process and the temporary directory as it found them."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from support.farm import lab_text

from pytest_edgehil.plugin.run import MARK, Run


def test_a_run_within_a_program_puts_its_signal_handler_back(pytester: pytest.Pytester) -> None:
    lab = pytester.makefile(".yaml", lab=lab_text(name="x", boards=1))
    pytester.makepyfile(
        """
        import signal

        def test_it():
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        """
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for _ in range(2):
            pytester.runpytest_inprocess(f"--edgehil-lab={lab}", "-p", "no:cacheprovider").assert_outcomes(passed=1)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pytester.runpytest_inprocess(f"--edgehil-lab={lab}", "-p", "no:cacheprovider")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "somebody else's"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_killed_run_left_is_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, alive = Run.begin(None), Run.begin(None)
    stray, used = killed.directory, alive.directory
    assert killed._mark is not None
    os.close(killed._mark)  # as the kernel does it for the dead
    (stray / "console").mkdir()
    foreign = tmp_path / "edgehil-run-foreign"
    foreign.mkdir()
    pointed = tmp_path / "pointed"
    pointed.mkdir()
    (pointed / MARK).touch()
    (tmp_path / "edgehil-run-link").symlink_to(pointed)
    following = Run.begin(None)
    assert following.directory.is_dir()
    assert not stray.exists()
    assert used.is_dir(), "it is still running"
    assert foreign.is_dir(), "without a mark it is not ours"
    assert (pointed / MARK).exists(), "a link is not followed"
    following.close()
    alive.close()
    assert not following.directory.exists()
    assert not used.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_what_belongs_to_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = Run.begin(None)
    stray = killed.directory
    assert killed._mark is not None
    os.close(killed._mark)
    os.chown(stray, 12345, 12345)
    Run.begin(None).close()
    following = Run.begin(None)
    assert following.directory.is_dir()
    assert stray.is_dir()
    following.close()

from __future__ import annotations

import os
import subprocess
import sys

from support.virtual_boards import alive, eventually

from pytest_edgehil.virtual import processes

SPIN = "import os\nwhile sum(os.times()[:2]) < {}: pass"


def test_a_process_name_may_hold_spaces_and_parentheses(tmp_path):
    odd = tmp_path / "a) (b"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(odd), "30"])
    try:
        facts = eventually(lambda: (f := processes.look(child.pid)) and f.name == "a) (b" and f.rss_bytes > 0 and f)
        assert facts.parent == os.getpid()
        assert facts.rss_bytes > 0
    finally:
        child.kill()
        child.wait()


def test_a_process_that_is_gone_has_no_facts():
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    assert processes.look(child.pid) is None
    assert processes.children(child.pid) == []


def test_descendants_are_found_with_and_without_the_kernels_help(monkeypatch):
    child = subprocess.Popen(["/bin/sh", "-c", "sleep 30 & sleep 30 & wait"])
    try:
        eventually(lambda: len(processes.descendants(child.pid)) == 2)
        found = set(processes.descendants(child.pid))
        monkeypatch.setattr(processes, "HAS_CHILDREN_FILE", False)
        assert set(processes.descendants(child.pid)) == found
        for pid in found:
            os.kill(pid, 9)
    finally:
        child.kill()
        child.wait()


def test_cpu_time_of_children_that_were_reaped_counts():
    script = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN.format(0.3)!r}])\ninput()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        eventually(lambda: processes.look(child.pid).cpu_s >= 0.3)
    finally:
        child.stdin.close()
        child.wait()


def test_a_subreaper_makes_an_end_of_daemons_and_of_what_forks_on():
    script = (
        "import subprocess, sys, time\n"
        "from pytest_edgehil.virtual.processes import *\n"
        "become_subreaper()\n"
        "subprocess.run(['/bin/sh', '-c', 'setsid sh -c \"sleep 60 & sleep 60\" & '])\n"
        "subprocess.Popen(['/bin/sh', '-c', 'trap \"\" HUP TERM; while :; do sleep 60 & sleep 0.001; done'])\n"
        "while len(found := descendants(__import__('os').getpid())) < 6: time.sleep(0.01)\n"
        "print(*found, flush=True)\n"
        "print(end_descendants(deadline_s=20), flush=True)\n"
        "print(descendants(__import__('os').getpid()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    pids, left, after = done.stdout.splitlines()
    assert (left, after) == ("[]", "[]")
    assert not any(alive(int(pid)) for pid in pids.split())


def test_strays_are_found_by_their_marker_wherever_they_are(tmp_path):
    marker = processes.marker_of(tmp_path)
    child = subprocess.Popen(
        ["/bin/sh", "-c", "setsid sleep 60 & setsid sleep 60 & wait"], env={**os.environ, processes.MARKER: marker}
    )
    eventually(lambda: len(processes.marked(marker)) >= 3)
    began = processes.marked(marker)
    assert processes.sweep(marker) >= 3
    child.wait()
    eventually(lambda: not any(alive(pid) for pid in began))
    assert processes.sweep(marker) == 0


def test_markers_of_different_directories_differ(tmp_path):
    assert processes.marker_of(tmp_path / "a") != processes.marker_of(tmp_path / "b")
    assert processes.marker_of(tmp_path / "a") == processes.marker_of(tmp_path / "b" / ".." / "a")

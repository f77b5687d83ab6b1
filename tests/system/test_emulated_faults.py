"""What only a real machine can suffer, on an emulated board: then it boots, is on one whole combo, and it was told.

All happen to one board, which each test leaves as it found it. Power cuts have a file of their own.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.boards import bundle, model_bundle
from support.emulated_bench import BOOT_S, COMMAND_S, Bench
from support.processes import until

from pytest_edgehil.board.diagnosis import Witnesses
from pytest_edgehil.board.flash import flash, plan_flash
from pytest_edgehil.board.power import open_power
from pytest_edgehil.errors import BoardCrashed, BoardError, DiskFull, FlashError, LinkLost, OutOfMemory, Overheated
from pytest_edgehil.model.artifact import Artifact, Combo

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.timeout(1800)]

LONG_S = 3600.0
FEEDS = {"x": np.zeros((1, 4), dtype=np.float32)}


def hungry_bundle(directory: Path) -> Artifact:
    """n int64 (1,) → the sum of n ones, all of which it has in memory at once."""
    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["n"], ["ones"], value=one),
            helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=1),
        ],
        "hungry",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bundle(directory, {"model.onnx": model.SerializeToString()}, name="hungry")


def test_a_model_that_needs_more_memory_than_there_is_ends_alone_and_the_kernel_is_quoted(
    bench: Bench, tmp_path: Path
) -> None:
    model = hungry_bundle(tmp_path)
    with bench.dut(model) as dut:
        bench.shell("echo 750 >/proc/sys/vm/nr_hugepages")  # 1.5 of its 2 GB are somebody else's
        with pytest.raises(OutOfMemory) as told:
            dut.run({"n": np.array([150_000_000], dtype=np.int64)}, timeout_s=COMMAND_S)
    assert "emu-01" in str(told.value)
    assert "; the console shows: Out of memory: Killed process" in str(told.value)
    assert "need more memory than the board has" in str(told.value)
    assert bench.session.client.hello.boot_id == bench.boot_id
    bench.is_whole(Combo(model=model))
    bench.shell("echo 0 >/proc/sys/vm/nr_hugepages")


def test_a_full_disk_is_one_line_and_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    old = Combo(model=model_bundle(tmp_path))
    large = {"model.onnx": random.Random(1).randbytes(2**20)}
    new = Combo(model=bundle(tmp_path, large, runtime=None))
    flash(plan_flash(old, bench.session.client.status()), bench.session)
    fill = "import os; f = os.open('/data/ballast', os.O_CREAT | os.O_WRONLY); s = os.statvfs('/data')"
    fill += "; os.posix_fallocate(f, 0, s.f_bavail * s.f_bsize - 2 ** 19)"
    bench.shell(f'python3 -c "{fill}" && sync')
    with pytest.raises(DiskFull) as told:
        flash(plan_flash(new, bench.session.client.status()), bench.session)
    assert str(told.value).startswith("emu-01: ")
    assert "'edgehil board gc emu-01' removes" in str(told.value)
    assert "\n" not in str(told.value)
    bench.is_whole(old)
    bench.shell("rm /data/ballast")
    flash(plan_flash(new, bench.session.client.status()), bench.session)
    bench.is_whole(new)


def test_a_kernel_panic_is_told_in_the_kernel_s_words_and_the_board_boots_again(bench: Bench, tmp_path: Path) -> None:
    model = model_bundle(tmp_path)
    with bench.dut(model) as dut:
        bench.happens_soon("echo c >/proc/sysrq-trigger")
        with pytest.raises(BoardCrashed) as told:
            dut.measure(FEEDS, seconds=LONG_S)
    assert "emu-01" in str(told.value)
    assert "; the console shows: Kernel panic - not syncing: sysrq triggered crash; " in str(told.value)
    assert "see its console log" in str(told.value)
    bench.comes_back(Combo(model=model))


def test_a_hung_userland_is_reset_by_the_watchdog_and_told(bench: Bench, tmp_path: Path) -> None:
    model = model_bundle(tmp_path)
    with bench.dut(model) as dut:
        witnesses = Witnesses("emu-01", console=bench.console, power=open_power(bench.running.board))
        since = bench.console.position
        bench.happens_soon("kill -STOP -1")  # everybody but the kernel and its first process
        with pytest.raises(BoardError, match="emu-01"):
            dut.measure(FEEDS, seconds=LONG_S)
    # on a slow host the watchdog may bite later than a test waits for it
    bench.console.wait_for("softdog: Initiating system reboot", timeout_s=BOOT_S, since=since)
    told = witnesses.explain(LinkLost("emu-01: the link is gone"), bench.session)
    assert type(told) is BoardCrashed
    assert str(told) == (
        "emu-01: the link is gone; the console shows: softdog: Initiating system reboot; nothing on the board ran any "
        "more, and its watchdog reset it: see its console log"
    )
    bench.comes_back(Combo(model=model))


def test_a_board_that_is_too_hot_switches_itself_off_and_is_told_as_that(bench: Bench, tmp_path: Path) -> None:
    model, power = model_bundle(tmp_path), open_power(bench.running.board)
    with bench.dut(model) as dut:
        since = bench.console.position
        bench.running.sensors.set_temperature(115)
        with pytest.raises(Overheated) as told:
            dut.measure(FEEDS, seconds=LONG_S)
    assert "emu-01" in str(told.value)
    assert "check its cooling" in str(told.value)
    bench.console.wait_for("critical temperature reached", timeout_s=BOOT_S, since=since)
    bench.console.wait_for("Power down", timeout_s=BOOT_S, since=since)
    until(lambda: not power.is_on(), timeout_s=BOOT_S)
    bench.running.sensors.set_temperature(45)
    power.on()
    bench.comes_back(Combo(model=model))


def test_a_file_system_that_turns_read_only_is_one_line_and_the_next_boot_mends_it(
    bench: Bench, tmp_path: Path
) -> None:
    old, new = (Combo(model=model_bundle(tmp_path, seed=seed)) for seed in (1, 2))
    flash(plan_flash(old, bench.session.client.status()), bench.session)
    bench.boot_id = bench.session.client.hello.boot_id
    bench.shell("echo kept >/data/kept && sync && echo lost >/tmp/lost")
    # what ext4 does on an error of the medium, as Debian has it do
    bench.shell("mount -o remount,errors=remount-ro /data && echo 1 >/sys/fs/ext4/vda4/trigger_fs_error")
    with pytest.raises(FlashError) as told:
        flash(plan_flash(new, bench.session.client.status()), bench.session)
    assert "emu-01" in str(told.value)
    assert "Read-only file system" in str(told.value)
    assert "have it mounted anew with 'edgehil lab power emu-01 cycle'" in str(told.value)
    assert "\n" not in str(told.value)
    bench.is_whole(old)
    open_power(bench.running.board).cycle()
    bench.comes_back(old)
    assert bench.shell("cat /data/kept; ls /tmp") == "kept\n"  # the power was gone
    flash(plan_flash(new, bench.session.client.status()), bench.session)
    bench.is_whole(new)

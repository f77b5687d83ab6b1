"""Sensors and identity below a sysroot: what is absent is None and never 0."""

from __future__ import annotations

import os

import pytest
from support.boards import SERIAL, BenchBoard

from pytest_edgehil.onboard import facts, processes, sensors
from pytest_edgehil.virtual.thermal import pmic_lines


@pytest.fixture
def bench(tmp_path, monkeypatch):
    board = BenchBoard(tmp_path / "board", new=True)
    for name, value in board.env.items():
        monkeypatch.setenv(name, value)
    return board


def test_a_row_of_the_sampler(bench):
    bench.put("throttled", "0x50005")
    row = sensors.reading(os.getpid())
    assert (row["temperature_c"], row["arm_hz"], row["throttled"]) == (52.35, 2_400_000_000, 0x50005)
    assert row["rss_bytes"] > row["pss_bytes"] > 2**20
    assert row["swap_bytes"] is not None
    assert row["npu_percent"] is None


def test_a_board_without_sensors(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEHIL_SYSROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    row = sensors.reading(None)
    assert row.pop("at_s") > 0
    assert set(row.values()) == {None}
    assert sensors.serial() == ""
    assert sensors.boot_id() is None
    assert sensors.memory_bytes() is None


def test_identity_ends_at_the_nul(bench):
    assert sensors.serial() == SERIAL
    assert sensors.hardware_model() == "Raspberry Pi 5 Model B Rev 1.0"
    assert sensors.memory_bytes() == 8257536 * 1024
    assert sensors.cell_of("proc/device-tree/chosen/bootloader/partition") == 2


@pytest.mark.parametrize(
    "line",
    [
        "echo throttled=garbage",
        "echo 'error=1 error_msg=\"Command not registered\"'",
        "echo throttled=0x0; exit 255",
        "true",
    ],
)
def test_a_vcgencmd_that_does_not_know_is_no_zero(bench, line):
    bench.shim("vcgencmd", line)
    assert sensors.throttled() is None


@pytest.mark.parametrize("watts", [2.7, 9.4])
def test_the_boards_power_is_that_of_its_rails_paired_by_name(bench, watts):
    bench.put("pmic", pmic_lines(watts))
    bench.shim("vcgencmd", f'[ "$1" = pmic_read_adc ] && cat {bench.root}/pmic')
    assert sensors.PowerMeter().power_w() == pytest.approx(watts, abs=1e-6)
    row = sensors.reading(None, meter=sensors.PowerMeter())
    assert row["power_w"] == pytest.approx(watts, abs=1e-6)


def test_rails_without_a_partner_are_left_out():
    text = """\
     3V3_SYS_A current(1)=0.50000000A
     3V3_SYS_V volt(9)=3.30000000V
       EXT5V_V volt(24)=5.09800000V
        BATT_V volt(25)=0.00000000V
    VDD_CORE_A current(7)=2.00000000A
    """
    assert sensors.rails_w(text) == pytest.approx(1.65)
    assert sensors.rails_w('error=1 error_msg="Command not registered"') is None


def test_a_board_without_a_power_meter_is_asked_once_and_a_slow_one_rarely(bench):
    bench.shim("vcgencmd", f"echo asked >> {bench.root}/asked; echo 'error=1'")
    meter = sensors.PowerMeter()
    assert (meter.power_w(), meter.power_w()) == (None, None)
    assert (bench.root / "asked").read_text().count("asked") == 1
    bench.put("pmic", pmic_lines(5.0))
    bench.shim("vcgencmd", f"cat {bench.root}/pmic")
    meter = sensors.PowerMeter()
    assert meter.power_w() is not None
    assert meter.power_w() is None  # at most a hundredth of the time is spent on it


@pytest.mark.parametrize("content", ["", "hot\n"])
def test_a_sensor_with_nonsense_is_absent(bench, content):
    bench.put("sys/class/thermal/thermal_zone0/temp", content)
    assert sensors.temperature_c() is None


def test_npu_use_counts_only_while_it_is_fresh(bench):
    path = bench.put("tmp/nnc_utilization/nnc_utilization", "37.500000\n")
    assert sensors.npu_percent() == 37.5
    os.utime(path, (1, 1))
    assert sensors.npu_percent() is None


def test_a_process_that_is_gone_has_no_memory():
    assert processes.status_bytes(2**22 + 1) == {}
    assert processes.pss_bytes(2**22 + 1) is None


def test_the_clock_cost_is_that_of_one_reading():
    assert 1 <= sensors.clock_cost_ns() < 1_000_000


def test_the_mark_of_memory_is_set_back_where_the_kernel_can(bench):
    block = bytearray(64 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    before = processes.status_bytes()["VmHWM"]
    del block
    done = processes.reset_peak()
    after = processes.status_bytes()["VmHWM"]
    assert after <= before
    assert done == (before - after > 32 * 2**20)
    assert not processes.reset_peak("none")


def test_a_control_group_is_the_models_only_if_it_is_alone_there(tmp_path):
    proc, groups = tmp_path / "proc/7", tmp_path / "cgroup/model.scope"
    proc.mkdir(parents=True)
    groups.mkdir(parents=True)

    def peak():
        return processes.cgroup_peak_bytes(7, proc=tmp_path / "proc", cgroups=tmp_path / "cgroup")

    assert peak() is None
    (proc / "cgroup").write_text("0::/model.scope\n")
    (groups / "memory.peak").write_text("123456\n")
    (groups / "cgroup.procs").write_text("7\n8\n")
    assert peak() is None
    (groups / "cgroup.procs").write_text("7\n")
    assert peak() == 123456
    (groups / "memory.peak").unlink()
    assert peak() is None
    (proc / "cgroup").write_text("0::/\n")
    assert peak() is None


def test_pages_read_back_from_swap_are_counted_for_the_board(bench):
    assert sensors.reading(None)["swap_in_pages"] is None
    bench.put("proc/vmstat", "pswpin 17\npswpout 40\noom_kill 2\n")
    assert sensors.reading(None)["swap_in_pages"] == 17
    assert sensors.vmstat("oom_kill") == 2


@pytest.mark.parametrize(
    ("line", "date"),
    [
        ("echo 'BOOTLOADER: up to date'; echo '   CURRENT: Mon 22 Sep 14:53:59 UTC 2025 (1758552839)'", "2025-09-22"),
        (
            "echo '   CURRENT: Mo 22. Jan 10:41:21 UTC 2024 (1705920081)'; echo '    LATEST: (1758552839)'; exit 1",
            "2024-01-22",
        ),
        ("echo 'Root required' >&2; exit 1", None),
        ("echo '   CURRENT: unknown'", None),
    ],
)
def test_the_date_of_the_bootloader_is_told_in_seconds_whatever_the_language(bench, line, date):
    bench.shim("rpi-eeprom-update", line)
    assert facts.bootloader() == date

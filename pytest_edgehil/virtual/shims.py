r"""The board's own programs, as far as a Pi 5 has them and the lab calls them.

They print what the real ones print (raspberrypi/utils, raspberrypi/rpi-eeprom, HailoRT), which the board drivers are
written against. All are small shell scripts that read files which the supervisor keeps up to date: they are called
often, and a shell starts in a millisecond where Python takes twenty.

What needs the world outside of the board (a reboot, a signature) is written as a line to the fifo
``/run/edgehil/request``; an answer comes over a fifo that the script makes and names in its line.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

REQUEST_FIFO = "run/edgehil/request"
VCGENCMD_DIRECTORY = "run/edgehil/vcgencmd"
BDF = "0001:01:00.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hat:
    """What HailoRT and the kernel say of an accelerator.

    Args:
        pci_device: of vendor 1e60.
    """

    driver: str
    firmware: str
    name: str | None
    architecture: str
    pci_device: str
    node: str


HATS: Mapping[str, Hat] = MappingProxyType(
    {
        "hailo8": Hat(
            driver="4.23.0",
            firmware="4.23.0 (release,app,extended context switch buffer)",
            name="Hailo-8",
            architecture="HAILO8",
            pci_device="0x2864",
            node="hailo0",
        ),
        "hailo8l": Hat(
            driver="4.23.0",
            firmware="4.23.0 (release,app,extended context switch buffer)",
            name="Hailo-8L",
            architecture="HAILO8L",
            pci_device="0x2864",
            node="hailo0",
        ),
        "hailo10h": Hat(
            driver="5.1.1",
            firmware="5.1.1 (release,app)",
            name=None,
            architecture="HAILO10H",
            pci_device="0x45c4",
            node="hailo0",
        ),
    }
)

_HEAD = "#!/bin/sh\n# part of a virtual board: written anew at every start\n"


def vcgencmd(disk: Path) -> str:
    """``vcgencmd``; like the real one it exits with 0 when the firmware does not know a command."""
    return f"""{_HEAD}d={shlex.quote(str(disk / VCGENCMD_DIRECTORY))}
case "$*" in
    measure_temp|get_throttled|pmic_read_adc|version) f=$1 ;;
    "measure_clock arm") f=measure_clock_arm ;;
    measure_clock*) echo 'error=2 error_msg="Invalid arguments"'; exit 0 ;;
    measure_volts|"measure_volts core") f=measure_volts ;;
    "") echo "Usage: vcgencmd command [ params ]"; exit 0 ;;
    *) echo 'error=1 error_msg="Command not registered"'; exit 0 ;;
esac
if ! [ -r "$d/$f" ]; then
    echo "Can't open device file: /dev/vcio_gencmd"
    exit 255
fi
while IFS= read -r line; do printf '%s\\n' "$line"; done < "$d/$f"
"""


def hailortcli(accelerator: str | None) -> str:
    """``hailortcli`` with this accelerator, or with none."""
    hat = None if accelerator is None else HATS[accelerator]
    if hat is None:
        version, scan, identify = "4.23.0", "echo 'Hailo devices not found'", "echo 'Hailo devices not found'; exit 74"
    else:
        name = "" if hat.name is None else f"Board Name: {hat.name}\n"
        version = hat.driver
        scan = f"echo 'Hailo Devices:'\n        echo '[-] Device: {BDF}'"
        identify = f"""cat <<'END'
Executing on device: {BDF}
Identifying board
Control Protocol Version: 2
Firmware Version: {hat.firmware}
Logger Version: 0
{name}Device Architecture: {hat.architecture}
Serial Number: <N/A>
Part Number: <N/A>
Product Name: <N/A>

END"""
    return f"""{_HEAD}case "$*" in
    --version|-v) echo 'HailoRT-CLI version {version}' ;;
    scan)
        {scan} ;;
    "fw-control identify")
        {identify}
        ;;
    *) echo "hailortcli: '$*' is not imitated by a virtual board" >&2; exit 1 ;;
esac
"""


def rpi_eeprom_update() -> str:
    """``rpi-eeprom-update``: always up to date."""
    return f"""{_HEAD}cat <<'END'
BOOTLOADER: up to date
   CURRENT: Mon 22 Sep 14:53:59 UTC 2025 (1758552839)
    LATEST: Mon 22 Sep 14:53:59 UTC 2025 (1758552839)
   RELEASE: default (/usr/lib/firmware/raspberrypi/bootloader-2712/default)
            Use raspi-config to change the release.
END
"""


def reboot(disk: Path) -> str:
    """``reboot`` and ``reboot "0 tryboot"``."""
    return f"""{_HEAD}r={shlex.quote(str(disk / REQUEST_FIFO))}
case "$*" in
    ""|-f|0) what=default ;;
    "0 tryboot"|"0tryboot") what=tryboot ;;
    *) echo "reboot: '$*': a virtual board knows no argument but '0 tryboot'" >&2; exit 1 ;;
esac
[ -p "$r" ] || {{ echo "reboot: the supervisor does not listen on $r" >&2; exit 1; }}
printf 'reboot\\t%s\\t%s\\n' "$$" "$what" > "$r"
"""


def poweroff(disk: Path) -> str:
    """``poweroff``: the board halts and stays so until its power is cycled."""
    return f"""{_HEAD}r={shlex.quote(str(disk / REQUEST_FIFO))}
[ -p "$r" ] || {{ echo "poweroff: the supervisor does not listen on $r" >&2; exit 1; }}
printf 'poweroff\\t%s\\n' "$$" > "$r"
"""


def sudo() -> str:
    """``sudo``: on Raspberry Pi OS the login needs no password; here it needs no privilege either."""
    return f"""{_HEAD}while :; do
    case "${{1-}}" in
        -u|-g) shift 2 ;;
        --) shift; break ;;
        -*) shift ;;
        *) break ;;
    esac
done
exec "$@"
"""


def rpi_fw_crypto(disk: Path) -> str:
    """``rpi-fw-crypto sign`` and ``pubkey``: the private key never comes onto the disk."""
    return f"""{_HEAD}r={shlex.quote(str(disk / REQUEST_FIFO))}
fail() {{ echo "rpi-fw-crypto: $1" >&2; exit 1; }}
[ $# -gt 0 ] || fail "expected sign, pubkey or get-num-otp-keys"
verb=$1; shift
[ "$verb" = get-num-otp-keys ] && {{ echo 1; exit 0; }}
in=; out=; key=; alg=ec
while [ $# -gt 0 ]; do
    case "$1" in
        --in) in=$2 ;;
        --out) out=$2 ;;
        --key-id) key=$2 ;;
        --alg) alg=$2 ;;
        *) fail "unknown option $1" ;;
    esac
    shift 2 || fail "$1 needs a value"
done
[ "$key" = 1 ] || fail "key ${{key:-(none)}} does not exist: the board has key 1"
[ "$alg" = ec ] || fail "algorithm $alg is not supported"
[ -n "$out" ] || fail "--out is missing"
case "$out" in /*) ;; *) out=$PWD/$out ;; esac
case "$in" in ""|/*) ;; *) in=$PWD/$in ;; esac
case "$verb" in
    sign) [ -r "$in" ] || fail "cannot read ${{in:-(no --in)}}" ;;
    pubkey) ;;
    *) fail "unknown command $verb" ;;
esac
[ -p "$r" ] || fail "the firmware does not answer"
answer=${{r%/*}}/answer.$$
rm -f "$answer"
mkfifo -m 600 "$answer" || exit 1
exec 3<> "$answer"
printf '%s\\t%s\\t%s\\t%s\\n' "$verb" "$answer" "$in" "$out" > "$r"
IFS= read -r line <&3
rm -f "$answer"
[ "$line" = ok ] || fail "$line"
"""


def python3(interpreter: str) -> str:
    """``python3``: an interpreter of the host, which finds its own environment by its own path."""
    path = os.environ.get("LD_LIBRARY_PATH")  # some interpreters do not find their own library without it
    export = "" if path is None else f"export LD_LIBRARY_PATH={shlex.quote(path)}\n"
    return f'{_HEAD}{export}exec {shlex.quote(interpreter)} "$@"\n'

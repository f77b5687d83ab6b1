"""Which board is this? Its seed says so: one JSON document at the beginning of the second disk, written by the host.

A board's host key, who may log in, its identity key, serial number and clock come with the seed. Where there is none
yet, it is waited for: in that state a template is saved, of which any number of boards are made. The pages of such
boards are the same, so the random generator gets the seed's entropy before anything has asked it, and the clock is set.
"""

import base64
import fcntl
import json
import mmap
import os
import struct
import subprocess
import time
from pathlib import Path

SEED = "/dev/vdb"
SEED_BYTES = 65536
KEYS = Path("/run/edgehil/keys")
HOME = Path("/data/root")
NODES = Path("/sys/firmware/devicetree/base")
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207  # <linux/random.h>
MOUNT = "/usr/bin/mount"
REPAIR = "/usr/sbin/e2fsck"
DATA = "/dev/vda4"


def say(text):
    with open("/dev/console", "w") as console:
        console.write(f"edgehil: {text}\n")


def read_seed():
    """Read it past the cache, which knows nothing of what the host writes; None while there is none."""
    with mmap.mmap(-1, SEED_BYTES) as buffer:
        descriptor = os.open(SEED, os.O_RDONLY | os.O_DIRECT)
        try:
            os.readv(descriptor, [buffer])
        finally:
            os.close(descriptor)
        data = buffer[:]
    size, text = struct.unpack_from(">I", data)[0], data[4:]
    return json.loads(text[:size]) if size else None


def warm_up():
    """Have in memory what the first inference needs: boards that are made of a template get it with their memory."""
    packages = Path("/usr/lib/python3/dist-packages")
    for path in packages.glob("*/**/*.so*"):
        path.read_bytes()


def wait_for_seed():
    told = False
    while (seed := read_seed()) is None:
        if not told:
            warm_up()
            say("waiting for a seed")
            told = True
        time.sleep(0.01)
    return seed


def set_clock(epoch_ns):
    if time.time_ns() < epoch_ns:
        time.clock_settime_ns(time.CLOCK_REALTIME, epoch_ns)


def stir(entropy):
    with open("/dev/urandom", "wb", buffering=0) as random:
        fcntl.ioctl(random, RNDADDENTROPY, struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
        fcntl.ioctl(random, RNDRESEEDCRNG)


def write(path, data, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def name_the_board(node, value):
    """Lay a property over one of the device tree, where boards of one template have the same."""
    path = Path("/run/edgehil") / node
    write(path, value.encode() + b"\0", 0o444)
    subprocess.run([MOUNT, "--bind", str(path), str(NODES / node)], check=True)


def mount_data():
    """Mount what outlives a firmware. What cannot be mounted is repaired, as Debian's initramfs does before it mounts.

    When ext4 is mounted it writes its superblock in place, two sectors with the checksum in the second: a power cut
    between them leaves one that the kernel refuses. e2fsck takes one of its copies and goes on with the journal.
    """
    mount = [MOUNT, "-t", "ext4", "-o", "noatime", DATA, "/data"]
    if subprocess.run(mount, check=False).returncode == 0:
        return
    say("/data cannot be mounted and is repaired")
    with open("/dev/console", "wb") as console:
        subprocess.run([REPAIR, "-y", DATA], stdout=console, stderr=console, check=False)  # mounting it is the proof
    subprocess.run(mount, check=True)


def main():
    seed = wait_for_seed()
    stir(base64.b64decode(seed["entropy"]))
    set_clock(seed["epoch_ns"])
    Path("/proc/sys/kernel/hostname").write_text(seed["hostname"])
    if not os.path.ismount("/data"):
        mount_data()
    write(KEYS / "dropbear_ed25519", base64.b64decode(seed["host_key"]))
    write(KEYS / "identity.pem", base64.b64decode(seed["identity_key"]))
    ssh = HOME / ".ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    for path in (HOME, ssh):
        path.chmod(0o700)
    write(ssh / "authorized_keys", "".join(f"{key}\n" for key in seed["authorized_keys"]).encode())
    name_the_board("serial-number", seed["serial"])
    (address,) = struct.unpack(">Q", (NODES / "edgehil-sensors/throttled").read_bytes())
    write(Path("/run/edgehil/throttled-at"), f"{address:#x}\n".encode(), 0o444)


main()

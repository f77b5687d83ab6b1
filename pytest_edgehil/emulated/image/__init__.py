"""Images for emulated boards: from pinned packages to a disk, without running a foreign program.

An image is a directory: ``image.yaml`` (what goes into it), ``image.lock`` (exactly which bytes of that), ``boot.cmd``
(what the bootloader does), ``init`` (what the kernel starts) and ``root/`` (files of its own). `build.build_image`
makes the disk of it; the same directory gives the same bytes on every x86-64 Debian or Ubuntu.
"""

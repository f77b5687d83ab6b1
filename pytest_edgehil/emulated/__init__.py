"""Emulated boards: an arm64 board under QEMU, with a real kernel, bootloader, console, SSH and A/B slots.

Start one with `farm.start`. What it proves and what it does not stands in docs/explanation/emulated-boards.md.
"""

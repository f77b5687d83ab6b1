"""The program that runs ON a board: it is packed into one zipapp, pushed and started over the link.

It imports nothing of pytest-edgehil and nothing outside the standard library, except in the model's own process
(`child`), where the runtime is imported. The parent (`serve`) speaks frames with the host on stdin and stdout, the
child speaks the same frames with the parent; a model therefore never shares a process with anything that must
survive it. Every path of the board's own state is below one home directory, every path of the board's hardware
below one sysroot (``EDGEHIL_SYSROOT``, ``/`` on a real board).
"""

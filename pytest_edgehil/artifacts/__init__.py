"""What is flashed: bundles with a manifest, how they are built, found, checked and read again.

Nothing here knows a board's wire; `board` puts these bundles on one. Bundles come from people and from build
machines, so every reader in this room treats its input as hostile and answers with one line.
"""

"""Boards without hardware: a process tree that behaves like a Raspberry Pi 5, and the faults one can inject.

Start one with `farm.start`. What is imitated, and where the imitation ends, is said at the top of each module.
"""

"""Hands on one board: SSH, serial console, power, flashing, and the client of the on-board program."""

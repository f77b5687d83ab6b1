"""Boards of an existing labgrid lab: its places are taken there as well, and its drivers switch the power.

labgrid brings a fork of pyserial that overwrites ours when both are installed. So nothing of it is imported here:
`bridge` is a program that runs in an interpreter that has labgrid, ours or another one, and we talk to it in lines.
"""

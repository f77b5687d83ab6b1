"""Verdicts as signed statements: who measured what on which board, bound to the bytes by digest.

A worker builds a statement (`statement`), the board signs it, the controller checks it against the raw samples and
adds the lab's signature (`write`); anybody who holds the public keys can check it again later (`verify`). Keys come
from a trust store (`trust`), never out of what is being verified.
"""

"""Rollouts: where may a release go? A staged plan, what the canaries reported, and a signed decision on it.

`plan` and `telemetry` are read, `analysis` judges, `decide` makes promote, hold or roll back of it, and `ledger`
keeps every decision, signed and chained to the one before.
"""

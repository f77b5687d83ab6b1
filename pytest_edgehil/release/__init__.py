"""Releases: may this artifact be signed, and the TUF repository that devices take it from.

`policy` says whether the evidence is enough; `repository` holds the keys, roles and files; `publish` joins the two:
the gate's signature, without which no device takes a target, is given only when the policy is fulfilled.
"""

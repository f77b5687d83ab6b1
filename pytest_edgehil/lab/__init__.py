"""Which boards exist, and who holds them.

`inventory` turns lab.yaml into frozen values, `matching` says which boards do for a requirement, `leases` says what
a lease is, `sqlite_store` keeps leases in a database, and `reservation` is the right to some boards that a test run
holds and renews. Nothing is re-exported here: the store and the schema are heavy, and the plugin must stay light.
"""

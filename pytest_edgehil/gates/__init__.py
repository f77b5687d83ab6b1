"""Deciding: a gate takes what a board measured and says PASS, FAIL, INCONCLUSIVE or INVALID.

One file per gate; `stats` beneath holds the mathematics, pure. `registry` turns a marker into a gate, `judging`
measures on until every gate has decided, `require` turns a verdict into an exception.

numpy and scipy are imported where a gate evaluates and not before: the plugin parses markers in every pytest run.
"""

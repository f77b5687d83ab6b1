"""The lab as a page for people: which boards there are, who holds them, who waits and why, what happened.

Rendered on the server from the lease database at each look, without JavaScript, readable on a phone. Everybody who
reaches the page may look; acting needs the token of ``edgehil lab serve --token-file``.
"""

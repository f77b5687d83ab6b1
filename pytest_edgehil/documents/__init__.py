"""Files that people write: YAML becomes frozen values, or one line per problem.

Such a line says file, line and path, what was found, what was expected, and what was probably meant:
``lab.yaml:14: boards.pi5-02.ssh.prot: unknown key; did you mean 'port'? known keys here: host, …``.

`reading` makes plain data of a file and remembers the lines, `checking` holds it against a pydantic model,
`complaints` translates what pydantic says, `near_miss` guesses what was meant.
"""

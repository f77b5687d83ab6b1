"""The statements of a soak, one module each; `gates.soak` puts them together.

Each takes what was declared and a sample and says what is known so far (`statement.Statement`). numpy and scipy are
imported inside the functions: the plugin loads the gates in every pytest run.
"""

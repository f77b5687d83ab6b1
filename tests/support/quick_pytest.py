"""What every pytest leaves out that the tests start: plugins of our own dependencies that no such run has a use for.

pytest-randomly would shuffle the runs that tests look at. Those of hypothesis and anyio do nothing there, but importing
them is a third of what a small run costs, in every worker again. Tests that are about a plugin ask for it.
"""

from __future__ import annotations

ADDOPTS = "-p no:randomly -p no:hypothesispytest -p no:anyio"

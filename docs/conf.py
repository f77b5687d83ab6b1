"""Sphinx configuration; warnings are errors (``make docs``)."""

project = "pytest-edgehil"
author = "The pytest-edgehil maintainers"
copyright = "2026, the pytest-edgehil maintainers; Apache-2.0"

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pytest-edgehil"
nitpicky = True

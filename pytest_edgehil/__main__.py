"""``python -m pytest_edgehil`` is ``edgehil``."""

import sys

from pytest_edgehil.cli import main

sys.exit(main())

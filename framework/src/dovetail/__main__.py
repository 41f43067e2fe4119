"""``python -m dovetail``."""

import sys

from dovetail.cli.main import main

sys.exit(main())

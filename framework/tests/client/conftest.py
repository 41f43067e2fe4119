from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from server_fixtures import *  # noqa: F403  fixtures are found by name

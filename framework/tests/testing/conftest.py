"""Makes the plugins in ``modules`` importable by the names that their cards give."""

import sys
from pathlib import Path

MODULES = str(Path(__file__).parent / "modules")
if MODULES not in sys.path:
    sys.path.insert(0, MODULES)

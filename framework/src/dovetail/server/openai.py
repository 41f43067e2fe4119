"""``python -m dovetail.server.openai --model …`` is ``dovetail serve --model …``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the server as the command line does."""
    # Imported here because the command line stands above the server.
    from dovetail.cli.main import main as run

    return run(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())

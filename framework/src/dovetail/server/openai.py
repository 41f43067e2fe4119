"""``python -m dovetail.server.openai --model …`` is ``dovetail serve --model …``."""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    """Start the program ``dovetail`` as ``python -m dovetail serve`` would. The server may not import the command line,
    which is a layer above it.
    """
    sys.argv.insert(1, "serve")
    runpy.run_module("dovetail", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

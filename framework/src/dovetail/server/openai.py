"""``python -m dovetail.server.openai --model …`` is ``dovetail serve --model …``."""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    """Hand over to the program ``dovetail``, as ``python -m dovetail serve`` would start it: the command line stands above the server."""
    sys.argv.insert(1, "serve")
    runpy.run_module("dovetail", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

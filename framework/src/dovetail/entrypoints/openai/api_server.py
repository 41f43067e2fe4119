"""The server under vLLM's import path: ``python -m dovetail.entrypoints.openai.api_server --model …`` is ``dovetail serve --model …``."""

from dovetail.server.openai import main

__all__ = ["main"]

if __name__ == "__main__":
    main()

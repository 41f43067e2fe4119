"""The server under vLLM's import paths."""

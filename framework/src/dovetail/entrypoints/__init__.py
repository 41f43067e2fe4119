"""``LLM`` and the server under vLLM's import paths."""

"""The engines under vLLM's newer import paths."""

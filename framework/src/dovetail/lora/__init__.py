"""LoRA adapters under vLLM's import paths."""

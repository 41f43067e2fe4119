"""``get_tokenizer`` under vLLM's import path."""

from dovetail.engine.setup import get_tokenizer

__all__ = ["get_tokenizer"]

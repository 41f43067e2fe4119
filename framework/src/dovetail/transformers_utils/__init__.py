"""Tokenizers under vLLM's import paths."""

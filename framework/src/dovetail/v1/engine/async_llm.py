"""``AsyncLLM`` under vLLM's import path."""

from dovetail.engine.async_llm.async_llm import AsyncLLM

__all__ = ["AsyncLLM"]

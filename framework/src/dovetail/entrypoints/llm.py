"""``LLM`` under vLLM's import path."""

from dovetail.engine.offline.llm import LLM

__all__ = ["LLM"]

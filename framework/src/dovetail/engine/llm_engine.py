"""``LLMEngine`` under vLLM's import path."""

from dovetail.engine.offline.llm_engine import LLMEngine

__all__ = ["LLMEngine"]

"""``AsyncLLMEngine`` under vLLM's import path."""

from dovetail.api.errors import EngineDeadError as AsyncEngineDeadError
from dovetail.engine.async_llm.async_llm import AsyncLLMEngine

__all__ = ["AsyncEngineDeadError", "AsyncLLMEngine"]

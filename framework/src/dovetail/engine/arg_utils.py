"""The engine's options under vLLM's import path."""

from dovetail.engine.args import AsyncEngineArgs, EngineArgs

__all__ = ["AsyncEngineArgs", "EngineArgs"]

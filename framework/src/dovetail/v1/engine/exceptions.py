"""The engine's end as an exception, under vLLM's import path."""

from dovetail.api.errors import EngineDeadError

__all__ = ["EngineDeadError"]

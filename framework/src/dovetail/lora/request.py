"""``LoRARequest`` under vLLM's import path."""

from dovetail.engine.adapters.lora_request import LoRARequest

__all__ = ["LoRARequest"]

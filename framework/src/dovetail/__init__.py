"""Dovetail: run and serve large language models, every part a plugin.

The names below are imported on first use, so that ``import dovetail`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.engine.adapters import LoRARequest
    from dovetail.engine.args import EngineArgs
    from dovetail.engine.llm import LLM
    from dovetail.engine.outputs import CompletionOutput, RequestOutput
    from dovetail.engine.params import BeamSearchParams, SamplingParams, StructuredOutputs, StructuredOutputsParams

__all__ = [
    "LLM",
    "BeamSearchParams",
    "CompletionOutput",
    "EngineArgs",
    "LoRARequest",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputs",
    "StructuredOutputsParams",
    "__version__",
]

_WHERE = {
    "LLM": "dovetail.engine.llm",
    "BeamSearchParams": "dovetail.engine.params",
    "CompletionOutput": "dovetail.engine.outputs",
    "EngineArgs": "dovetail.engine.args",
    "LoRARequest": "dovetail.engine.adapters",
    "RequestOutput": "dovetail.engine.outputs",
    "SamplingParams": "dovetail.engine.params",
    "StructuredOutputs": "dovetail.engine.params",
    "StructuredOutputsParams": "dovetail.engine.params",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dovetail")
    if name not in _WHERE:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)

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
    from dovetail.engine.pooling import PoolingParams
    from dovetail.engine.pooling_outputs import (
        ClassificationRequestOutput,
        EmbeddingRequestOutput,
        PoolingRequestOutput,
        ScoringRequestOutput,
    )

__all__ = [
    "LLM",
    "BeamSearchParams",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "LoRARequest",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestOutput",
    "SamplingParams",
    "ScoringRequestOutput",
    "StructuredOutputs",
    "StructuredOutputsParams",
    "__version__",
]

_WHERE = {
    "LLM": "dovetail.engine.llm",
    "BeamSearchParams": "dovetail.engine.params",
    "ClassificationRequestOutput": "dovetail.engine.pooling_outputs",
    "CompletionOutput": "dovetail.engine.outputs",
    "EmbeddingRequestOutput": "dovetail.engine.pooling_outputs",
    "EngineArgs": "dovetail.engine.args",
    "LoRARequest": "dovetail.engine.adapters",
    "PoolingParams": "dovetail.engine.pooling",
    "PoolingRequestOutput": "dovetail.engine.pooling_outputs",
    "RequestOutput": "dovetail.engine.outputs",
    "SamplingParams": "dovetail.engine.params",
    "ScoringRequestOutput": "dovetail.engine.pooling_outputs",
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

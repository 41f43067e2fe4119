"""Dovetail: run and serve large language models, every part a plugin.

The names below are imported on first use, so that ``import dovetail`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.engine.adapters.lora_request import LoRARequest
    from dovetail.engine.args import EngineArgs
    from dovetail.engine.offline.llm import LLM
    from dovetail.engine.request.outputs import CompletionOutput, RequestOutput
    from dovetail.engine.request.params import (
        BeamSearchParams,
        SamplingParams,
        StructuredOutputs,
        StructuredOutputsParams,
    )
    from dovetail.engine.request.pooling_outputs import (
        ClassificationRequestOutput,
        EmbeddingRequestOutput,
        PoolingRequestOutput,
        ScoringRequestOutput,
    )
    from dovetail.engine.request.pooling_params import PoolingParams

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
    "LLM": "dovetail.engine.offline.llm",
    "BeamSearchParams": "dovetail.engine.request.params",
    "ClassificationRequestOutput": "dovetail.engine.request.pooling_outputs",
    "CompletionOutput": "dovetail.engine.request.outputs",
    "EmbeddingRequestOutput": "dovetail.engine.request.pooling_outputs",
    "EngineArgs": "dovetail.engine.args",
    "LoRARequest": "dovetail.engine.adapters.lora_request",
    "PoolingParams": "dovetail.engine.request.pooling_params",
    "PoolingRequestOutput": "dovetail.engine.request.pooling_outputs",
    "RequestOutput": "dovetail.engine.request.outputs",
    "SamplingParams": "dovetail.engine.request.params",
    "ScoringRequestOutput": "dovetail.engine.request.pooling_outputs",
    "StructuredOutputs": "dovetail.engine.request.params",
    "StructuredOutputsParams": "dovetail.engine.request.params",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dovetail")
    if name not in _WHERE:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)

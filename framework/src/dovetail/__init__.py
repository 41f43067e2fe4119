"""Dovetail: run and serve large language models, every part a plugin.

The names below are imported on first use, so that ``import dovetail`` is fast.
"""

from dovetail.python_path import is_run_as_module, leave_working_directory

if is_run_as_module("dovetail"):
    leave_working_directory()  # before anything is imported that may be found there

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.engine.adapters.lora_request import LoRARequest
    from dovetail.engine.args import AsyncEngineArgs, EngineArgs
    from dovetail.engine.async_llm.async_llm import AsyncLLM, AsyncLLMEngine
    from dovetail.engine.offline.llm import LLM
    from dovetail.engine.offline.llm_engine import LLMEngine
    from dovetail.engine.request.outputs import CompletionOutput, RequestOutput, RequestOutputKind
    from dovetail.engine.request.params import (
        BeamSearchParams,
        GuidedDecodingParams,
        SamplingParams,
        StructuredOutputs,
        StructuredOutputsParams,
    )
    from dovetail.engine.request.pooling_outputs import (
        ClassificationOutput,
        ClassificationRequestOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        PoolingOutput,
        PoolingRequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from dovetail.engine.request.pooling_params import PoolingParams
    from dovetail.engine.request.prompt_types import PromptType, TextPrompt, TokensPrompt

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "BeamSearchParams",
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "GuidedDecodingParams",
    "LLMEngine",
    "LoRARequest",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "PromptType",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "ScoringOutput",
    "ScoringRequestOutput",
    "StructuredOutputs",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "__version__",
]

_WHERE = {
    "AsyncEngineArgs": "dovetail.engine.args",
    "AsyncLLM": "dovetail.engine.async_llm.async_llm",
    "AsyncLLMEngine": "dovetail.engine.async_llm.async_llm",
    "BeamSearchParams": "dovetail.engine.request.params",
    "ClassificationOutput": "dovetail.engine.request.pooling_outputs",
    "ClassificationRequestOutput": "dovetail.engine.request.pooling_outputs",
    "CompletionOutput": "dovetail.engine.request.outputs",
    "EmbeddingOutput": "dovetail.engine.request.pooling_outputs",
    "EmbeddingRequestOutput": "dovetail.engine.request.pooling_outputs",
    "EngineArgs": "dovetail.engine.args",
    "GuidedDecodingParams": "dovetail.engine.request.params",
    "LLM": "dovetail.engine.offline.llm",
    "LLMEngine": "dovetail.engine.offline.llm_engine",
    "LoRARequest": "dovetail.engine.adapters.lora_request",
    "PoolingOutput": "dovetail.engine.request.pooling_outputs",
    "PoolingParams": "dovetail.engine.request.pooling_params",
    "PoolingRequestOutput": "dovetail.engine.request.pooling_outputs",
    "PromptType": "dovetail.engine.request.prompt_types",
    "RequestOutput": "dovetail.engine.request.outputs",
    "RequestOutputKind": "dovetail.engine.request.outputs",
    "SamplingParams": "dovetail.engine.request.params",
    "ScoringOutput": "dovetail.engine.request.pooling_outputs",
    "ScoringRequestOutput": "dovetail.engine.request.pooling_outputs",
    "StructuredOutputs": "dovetail.engine.request.params",
    "StructuredOutputsParams": "dovetail.engine.request.params",
    "TextPrompt": "dovetail.engine.request.prompt_types",
    "TokensPrompt": "dovetail.engine.request.prompt_types",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dovetail")
    if name not in _WHERE:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

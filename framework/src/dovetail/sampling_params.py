"""Sampling parameters under vLLM's import path."""

from dovetail.engine.request.outputs import RequestOutputKind
from dovetail.engine.request.params import (
    BeamSearchParams,
    GuidedDecodingParams,
    SamplingParams,
    StructuredOutputsParams,
)

__all__ = ["BeamSearchParams", "GuidedDecodingParams", "RequestOutputKind", "SamplingParams", "StructuredOutputsParams"]

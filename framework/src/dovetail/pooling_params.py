"""Pooling parameters under vLLM's import path."""

from dovetail.engine.request.pooling_params import PoolingParams

__all__ = ["PoolingParams"]

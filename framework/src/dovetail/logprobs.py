"""Logprobs of outputs under vLLM's import path."""

from dovetail.engine.request.outputs import Logprob

__all__ = ["Logprob"]

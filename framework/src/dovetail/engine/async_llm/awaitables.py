"""What may be awaited, and need not be: scripts for vLLM do either, by the version that they were written for."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from dovetail.engine.request.model_config import ModelConfig
from dovetail.engine.text.hf_tokenizer import HFTokenizer


class AsyncTokenizer(HFTokenizer):
    """A tokenizer that may be awaited, which gives itself: ``get_tokenizer`` is a coroutine in some versions of vLLM and none in others."""

    def __await__(self) -> Generator[Any, None, AsyncTokenizer]:
        return self
        yield


class AsyncModelConfig(ModelConfig):
    """A model's configuration that may be awaited, as :class:`AsyncTokenizer` may."""

    def __await__(self) -> Generator[Any, None, AsyncModelConfig]:
        return self
        yield

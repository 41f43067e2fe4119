"""Values that can be used directly or awaited, because scripts for different versions of vLLM do either."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from dovetail.engine.request.model_config import ModelConfig
from dovetail.engine.text.hf_tokenizer import HFTokenizer


class AsyncTokenizer(HFTokenizer):
    """A tokenizer that can be awaited and then returns itself. ``get_tokenizer`` is a coroutine in some versions of
    vLLM.
    """

    def __await__(self) -> Generator[Any, None, AsyncTokenizer]:
        return self
        yield


class AsyncModelConfig(ModelConfig):
    """A model's configuration that can be awaited, like :class:`AsyncTokenizer`."""

    def __await__(self) -> Generator[Any, None, AsyncModelConfig]:
        return self
        yield

"""The options that resolution reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

AUTO = "auto"


Overrides = dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]


class PlanOptions(BaseModel):
    """The options that resolution reads. Names and meanings are those of the command line's flags."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = Field(
        default=None,
        description="a folder, a weight file or a hub repository (org/name); without it, the embedded default",
    )
    tokenizer: str | None = Field(
        default=None, description="take the tokenizer from this folder or file instead of the model's"
    )
    hf_config_path: str | None = Field(
        default=None, description="take config.json from this folder or file instead of the model's"
    )
    hf_overrides: Overrides = Field(
        default={},
        description="JSON object merged into config.json before anything is resolved; may name other architectures",
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub repository")
    download_dir: str | None = Field(default=None, description="where hub downloads are kept")
    load_format: str = Field(default=AUTO, description="the loader that reads the weights")
    dtype: str = Field(
        default=AUTO, description="dtype of activations; auto takes the checkpoint's, else the platform's"
    )
    quantization: str | None = Field(
        default=None,
        description="require this quantization format; the checkpoint must be in it already, nothing is converted",
    )
    device: str = Field(default=AUTO, description="the platform to run on; auto takes the best that is present")
    attention_backend: str = Field(default=AUTO, description="the attention backend")
    kv_cache_dtype: str = Field(default=AUTO, description="dtype of the KV cache; auto takes that of the activations")
    max_model_len: int | None = Field(
        default=None,
        ge=2,
        description="longest sequence in tokens (32k means 32,000 and 32K 32,768); auto takes what the model and memory allow",
    )
    block_size: int = Field(default=16, gt=0, description="tokens in a KV-cache block")

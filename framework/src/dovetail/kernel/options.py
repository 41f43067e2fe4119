"""The options of resolution."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

AUTO = "auto"


Overrides = dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]


BYTE_COUNT = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtT]?|[KMGT]i?B|B)")
SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


def parse_token_count(value: Any) -> Any:
    """``4096``, ``"32k"`` (32,000), ``"32K"`` (32,768), or ``"auto"`` for None; other values are returned unchanged."""
    if not isinstance(value, str):
        return value
    if value == "auto":
        return None
    number, factor = (value[:-1], SUFFIXES[value[-1]]) if value and value[-1] in SUFFIXES else (value, 1)
    try:
        count = float(number) * factor
    except ValueError:
        count = math.nan
    if not count.is_integer():
        raise ValueError(f"{value!r} is not a number of tokens; write 4096, 32k or auto")
    return int(count)


def parse_byte_count(value: Any) -> Any:
    """``4096``, ``"4G"`` and ``"4GiB"`` (4 x 2**30), ``"4g"`` and ``"4GB"`` (4 x 10**9); anything else as it is."""
    if not isinstance(value, str):
        return value
    match = BYTE_COUNT.fullmatch(value.strip())
    number, unit = match.groups() if match else ("nan", "")
    binary = unit[-2:] == "iB" or unit in ("K", "M", "G", "T")
    factor = (1024 if binary else 1000) ** (" kmgt".index(unit[0].lower()) if unit not in ("", "B") else 0)
    count = float(number) * factor
    if not math.isfinite(count):
        raise ValueError(f"{value!r} is not a number of bytes; write 4G, 4GiB or 4294967296")
    return int(count)


def parse_media_limits(value: Any) -> Any:
    """``image=2`` and ``{"image": 2}`` as the latter; anything else as it is.

    Raises:
        ValueError: it limits something else than images, or to no number.
    """
    if isinstance(value, str):
        try:
            pairs = (part.split("=") for part in value.split(",")) if "{" not in value else json.loads(value).items()
            value = {kind.strip(): int(count) for kind, count in pairs}
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"{value!r} is no limit; write image=2") from None
    if isinstance(value, dict):
        for kind, count in value.items():
            if isinstance(count, dict) and "count" in count:
                value = {**value, kind: count["count"]}
        if unknown := [kind for kind, count in value.items() if kind != "image" and count != 0]:
            raise ValueError(f"{', '.join(map(str, unknown))}: only images are read, so write image=2")
        if any(type(count) is not int or count < 0 for count in value.values()):
            raise ValueError("wanted numbers, 0 or more")
    return value


def parse_token(value: Any) -> Any:
    """``"true"`` and ``"false"`` as what they say, and nothing for an empty text; anything else as it is."""
    return {"true": True, "false": False, "": None}.get(value.lower(), value) if isinstance(value, str) else value


def name_classes(value: Any) -> Any:
    """Classes in a list as ``module:Class``; everything else as it is."""
    if not isinstance(value, (list, tuple)):
        return value
    return [f"{each.__module__}:{each.__qualname__}" if isinstance(each, type) else each for each in value]


class PlanOptions(BaseModel):
    """The options of resolution, with the names and meanings of the command line's flags."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = Field(
        default=None,
        description="a folder, a weight file, or a hub repository (org/name, or org/name:file for one of its weight files); without it, the embedded default",
    )
    tokenizer: str | None = Field(
        default=None, description="take the tokenizer from this folder, file or hub repository instead of the model's"
    )
    tokenizer_revision: str | None = Field(
        default=None,
        description="branch, tag or commit of the hub repository of the tokenizer, which is --tokenizer or the model's own",
    )
    hf_config_path: str | None = Field(
        default=None, description="take config.json from this folder or file instead of the model's"
    )
    hf_overrides: Overrides = Field(
        default={},
        description="JSON object merged into config.json before anything is resolved; may name other architectures",
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub repository")
    hf_token: Annotated[str | bool | None, BeforeValidator(parse_token)] = Field(
        default=None,
        repr=False,
        exclude=True,
        description="token for the hub, or without a value the one that hf auth login has kept. Other users of the machine see command "
        "lines: HF_TOKEN keeps it to yourself",
    )
    download_dir: str | None = Field(default=None, description="where hub downloads are kept")
    model_impl: str = Field(
        default=AUTO,
        description="the model plugin by name; native takes none that serves architectures which it does not name, and auto prefers others",
    )
    load_format: str = Field(default=AUTO, description="the loader that reads the weights")
    runner: Literal["auto", "generate", "pooling"] = Field(
        default="auto", description="run the model for text or for vectors; auto does what it was made for"
    )
    convert: Literal["auto", "none", "embed"] = Field(
        default="auto",
        description="embed makes a model one for embeddings; auto does so where --runner, --task or sentence-transformers' files ask for it",
    )
    task: Literal["auto", "generate", "embed", "classify", "score"] = Field(
        default="auto", description="serve this task alone"
    )
    pooler_config: dict[str, Any] = Field(
        default={},
        description="JSON object: pooling_type (last, mean or cls) and normalize (bool), over what the checkpoint says",
    )
    dtype: str = Field(
        default=AUTO, description="dtype of activations; auto takes the checkpoint's, else the platform's"
    )
    quantization: str | None = Field(
        default=None,
        description="require this quantization format; the checkpoint must be in it already, nothing is converted",
    )
    device: str = Field(default=AUTO, description="the platform to run on; auto takes the best that is present")
    attention_backend: str = Field(default=AUTO, description="the attention backend")
    structured_outputs_backend: str = Field(
        default=AUTO, description="the grammar backend; auto takes the best that is installed, or does without"
    )
    logits_processors: Annotated[list[str], BeforeValidator(name_classes)] = Field(
        default=[],
        description="a logits processor for every request: the name of a plugin's, or module:Class; requests may name others themselves",
    )
    tool_call_parser: str = Field(
        default=AUTO,
        description="the parser of tool calls; auto goes by the chat template, none leaves calls in the text",
    )
    reasoning_parser: str = Field(
        default=AUTO,
        description="the parser of reasoning; auto goes by the chat template, none leaves thoughts in the text",
    )
    kv_cache_dtype: str = Field(default=AUTO, description="dtype of the KV cache; auto takes that of the activations")
    max_model_len: Annotated[int | None, BeforeValidator(parse_token_count)] = Field(
        default=None,
        ge=2,
        description="longest sequence in tokens (32k means 32,000 and 32K 32,768); auto takes what the model and memory allow",
    )
    block_size: int = Field(default=16, gt=0, description="tokens in a KV-cache block")
    speculative_config: dict[str, Any] | None = Field(
        default=None,
        description="JSON object that turns speculative decoding on: method (or the model of a draft), num_speculative_tokens, and "
        "the method's own options",
    )

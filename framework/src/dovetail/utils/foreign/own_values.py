"""Values that other engines have for options of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dovetail.api.errors import UsageError
from dovetail.utils.foreign.option import OwnValue


def one_of(**values: Any) -> Callable[[Any], Any]:
    return lambda value: values.get(value, value) if isinstance(value, str) else value


AUTOMATIC = "auto"
GRAMMAR_ENGINES = ("xgrammar", "guidance", "outlines", "lm-format-enforcer")
ATTENTION_KERNELS = (
    "FLASH_ATTN",
    "FLASHINFER",
    "FLEX_ATTENTION",
    "TORCH_SDPA",
    "TRITON_ATTN",
    "XFORMERS",
    "TREE_ATTN",
    "CPU_ATTN",
    "ROCM_ATTN",
    "ROCM_AITER_FA",
    "ROCM_FLASH",
)
FAST_READERS = ("hf", "fastsafetensors", "runai_streamer", "instanttensor")
DTYPES = {"bf16": "bfloat16", "f16": "float16", "fp16": "float16", "f32": "float32", "fp32": "float32"}
TASKS = {"embedding": "embed"}
POOLER_KEYS = {"seq_pooling_type": "pooling_type", "use_activation": "normalize", "activation": "normalize"}
SINGLE_DRAFT = ("draft_tensor_parallel_size", "tensor_parallel_size")


def grammar_engine(value: Any) -> Any:
    """vLLM's names of grammar backends, which may have options after a colon."""
    return AUTOMATIC if isinstance(value, str) and value.partition(":")[0] in GRAMMAR_ENGINES else value


def attention_kernel(value: Any) -> Any:
    if not isinstance(value, str):
        value = getattr(value, "name", value)  # a member of vLLM's enumeration
    name = str(value).upper().removesuffix("_VLLM_V1")
    return AUTOMATIC if name in ATTENTION_KERNELS or name.startswith(("FLASHINFER", "TRITON_")) else value


def pooler_keys(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    found = {POOLER_KEYS.get(key, key): inner for key, inner in value.items() if inner is not None}
    return {key: inner.lower() if isinstance(inner, str) else inner for key, inner in found.items()}


def draft_keys(value: Any) -> Any:
    """Remove keys which say that the draft model runs on one device, and nulls."""
    if not isinstance(value, Mapping):
        return value
    return {k: v for k, v in value.items() if v is not None and not (k in SINGLE_DRAFT and v == 1)}


def text_or_number(value: Any) -> Any:
    return AUTOMATIC if value in (-1, "-1") else value


def repacked(value: Any) -> Any:
    return value.removesuffix("_marlin") if isinstance(value, str) else value


def dtype_name(value: Any) -> Any:
    """The name of a dtype. It may be a torch dtype, whose text is ``torch.bfloat16``."""
    text = value if isinstance(value, str) else str(value)
    return DTYPES.get(text, text).removeprefix("torch.")


def own_classes(value: Any) -> Any:
    """
    Raises:
        UsageError: a class is one of vLLM's, which are written for another interface.
    """
    for name in value if isinstance(value, (list, tuple)) else [value]:
        if str(name).startswith("vllm."):
            raise UsageError(
                f"--logits-processors {name}: it is a class of vLLM, which is written for its interface",
                "write one on dovetail.api.LogitsProcessor: docs/plugins.md",
            )
    return value


OWN_VALUES = (
    OwnValue("generation_config", ("vllm",), one_of(vllm="none"), "`none`: neutral sampling parameters"),
    OwnValue("max_model_len", ("-1",), text_or_number, "`auto`"),
    OwnValue("dtype", tuple(DTYPES), dtype_name, "the long names"),
    OwnValue("kv_cache_dtype", tuple(DTYPES), dtype_name, "the long names"),
    OwnValue("model_impl", ("vllm",), one_of(vllm="native"), "`native`: only packages that name the architecture"),
    OwnValue("task", tuple(TASKS), one_of(**TASKS), "`embed`"),
    OwnValue("quantization", ("…_marlin",), repacked, "the format without the name of a kernel"),
    OwnValue(
        "attention_backend",
        ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "…"),
        attention_kernel,
        "it names a kernel of vLLM, and the best of what is installed here is taken",
        notice=True,
    ),
    OwnValue(
        "structured_outputs_backend",
        GRAMMAR_ENGINES,
        grammar_engine,
        "it names a library of vLLM, and the best of what is installed here is taken",
        notice=True,
    ),
    OwnValue(
        "load_format",
        FAST_READERS,
        lambda value: AUTOMATIC if value in FAST_READERS else value,
        "it names a way to read the same files, and they are read in ours",
        notice=True,
    ),
    OwnValue("logits_processors", ("vllm.…:Class",), own_classes, "nothing: a class is written for one interface"),
    OwnValue("pooler_config", ("seq_pooling_type", "MEAN"), pooler_keys, "`pooling_type`, in small letters"),
    OwnValue(
        "speculative_config",
        ("draft_tensor_parallel_size: 1",),
        draft_keys,
        "nothing: a draft runs on one device",
    ),
)
_CHANGES = {own.name: own for own in OWN_VALUES}


def change_own_value(name: str, value: Any) -> tuple[Any, str]:
    """Our value, and the notice about it."""
    own = _CHANGES.get(name)
    if own is None:
        return value, ""
    changed = own.change(value)
    return changed, own.detail if own.notice and changed != value else ""

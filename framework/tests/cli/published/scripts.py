"""What 20 published scripts for vLLM hand to ``LLM`` and ``SamplingParams``, and whether it is taken."""

from __future__ import annotations

from typing import Any, NamedTuple


class Script(NamedTuple):
    """
    Attributes:
        refused: a word of the reason; None for what is taken.
    """

    llm: dict[str, Any]
    sampling: dict[str, Any]
    refused: str | None = None


SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}
M = {"model": "some/model"}

SCRIPTS = [
    Script(M, {"temperature": 0.8, "top_p": 0.95}),
    Script(
        M
        | {
            "dtype": "auto",
            "gpu_memory_utilization": 0.9,
            "max_model_len": 2048,
            "tensor_parallel_size": 1,
            "trust_remote_code": False,
        },
        {"temperature": 0.7, "top_p": 0.95, "max_tokens": 256},
    ),
    Script(
        M | {"tensor_parallel_size": 1, "trust_remote_code": True},
        {"temperature": 0.6, "max_tokens": 256, "stop_token_ids": [2]},
    ),
    Script(M | {"tensor_parallel_size": 2}, {"temperature": 0.001}, "several devices"),
    Script(M | {"tensor_parallel_size": 1, "max_model_len": 8192}, {}),
    Script(
        M
        | {
            "tensor_parallel_size": 1,
            "trust_remote_code": True,
            "device": "cuda",
            "skip_tokenizer_init": True,
            "max_model_len": 8192,
            "enforce_eager": True,
        },
        {"temperature": 0, "max_tokens": 30, "detokenize": False},
    ),
    Script(
        M | {"tensor_parallel_size": 8},
        {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05, "max_tokens": 512},
        "several devices",
    ),
    Script(
        M | {"dtype": "bfloat16", "trust_remote_code": True, "max_model_len": 4096},
        {"temperature": 0.8, "top_p": 0.95, "max_tokens": 500},
    ),
    Script(
        M
        | {
            "tokenizer": "some/model",
            "dtype": "auto",
            "kv_cache_dtype": "auto",
            "tensor_parallel_size": 1,
            "max_seq_len_to_capture": 2048,
            "max_num_batched_tokens": 2048,
            "max_num_seqs": 2048,
            "use_v2_block_manager": True,
            "enforce_eager": True,
            "trust_remote_code": True,
        },
        {},
    ),
    Script(
        M
        | {
            "gpu_memory_utilization": 0.30,
            "max_model_len": 512,
            "max_num_batched_tokens": 512,
            "enforce_eager": True,
            "compilation_config": {"custom_ops": ["none"]},
        },
        {"max_tokens": 64},
    ),
    Script(
        M
        | {
            "quantization": "awq",
            "dtype": "float16",
            "enforce_eager": True,
            "max_model_len": 2048,
            "gpu_memory_utilization": 0.9,
            "attention_backend": "ROCM_ATTN",
            "limit_mm_per_prompt": {"image": 1},
            "mm_processor_kwargs": {"max_pixels": 1003520},
        },
        {"max_tokens": 96, "ignore_eos": True},
    ),
    Script(
        M
        | {
            "dtype": "bfloat16",
            "gpu_memory_utilization": 0.9,
            "max_model_len": 4096,
            "seed": 7,
            "enforce_eager": False,
        },
        {"temperature": 1.0, "top_p": 0.95, "max_tokens": 800, "seed": 7},
    ),
    Script(
        M
        | {
            "runner": "pooling",
            "convert": "embed",
            "dtype": "bfloat16",
            "tensor_parallel_size": 1,
            "trust_remote_code": True,
            "gpu_memory_utilization": 0.9,
        },
        {},
    ),
    Script(
        M
        | {
            "max_model_len": 4096,
            "tensor_parallel_size": 4,
            "gpu_memory_utilization": 0.7,
            "enable_lora": True,
            "max_lora_rank": 64,
        },
        {"temperature": 0.9, "top_p": 0.97, "max_tokens": 40},
        "several devices",
    ),
    Script(
        M
        | {
            "dtype": "half",
            "max_model_len": 1024,
            "max_num_batched_tokens": 1024,
            "max_num_seqs": 1,
            "swap_space": 4,
            "disable_log_stats": True,
        },
        {"temperature": 0.0, "max_tokens": 32, "logprobs": None},
    ),
    Script(
        M | {"guided_decoding_backend": "xgrammar", "tokenizer_mode": "auto"},
        {
            "temperature": 0.1,
            "top_p": 0.9,
            "max_tokens": 64,
            "guided_decoding": {"json": SCHEMA, "backend": "outlines"},
        },
    ),
    Script(M | {"enable_prefix_caching": True, "enable_prompt_embeds": True}, {}, "token ids"),
    Script(
        M
        | {"speculative_model": "some/draft", "num_speculative_tokens": 5, "speculative_draft_tensor_parallel_size": 1},
        {"n": 4, "best_of": 4, "use_beam_search": False},
    ),
    Script(
        M | {"enable_chunked_prefill": True, "max_num_batched_tokens": 2048, "max_num_seqs": 256},
        {"max_tokens": None, "stop": None, "min_tokens": 0},
    ),
    Script(
        M
        | {
            "override_pooler_config": {"pooling_type": "MEAN", "normalize": True},
            "task": "embedding",
            "tokenizer": None,
            "quantization": None,
        },
        {"temperature": 0, "output_kind": 2},
    ),
]

"""The sizes that the metadata states, compared with the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from dovetail_loaders_gguf.inspection import inspect

from dovetail.api import CheckpointError

TENSORS = {
    "token_embd.weight": (6, 64),
    "blk.0.attn_q.weight": (64, 64),
    "blk.1.attn_q.weight": (64, 64),
    "blk.1.ffn_up.weight": (128, 64),
}
NUMBER = {bool: "add_bool", int: "add_uint64", float: "add_float32", str: "add_string", list: "add_array"}


def refusal(folder: Path, tensors: dict[str, tuple[int, ...]], **metadata: Any) -> str | None:
    """What is said of a file with these entries; None if it is taken."""
    file = folder / "m.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in metadata.items():
        getattr(writer, NUMBER[type(value)])(key.replace("__", "."), value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    try:
        inspect(str(file), ())
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"llama.block_count": 2, "llama.embedding_length": 64, "llama.vocab_size": 6},
        {"llama.block_count": 3, "llama.nextn_predict_layers": 1},
        {"llama.feed_forward_length": [128, 64]},
        {"llama.context_length": 2**30, "llama.rope.scaling.original_context_length": 10**6},
        {"llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.scaling.yarn_ext_factor": -1.0},
        {"other.block_count": 10**12},
        {"tokenizer.ggml.tokens": ["a", "b"]},
    ],
)
def test_sizes_that_fit_are_taken(tmp_path: Path, metadata: dict[str, Any]) -> None:
    assert refusal(tmp_path, TENSORS, **metadata) is None


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"llama.block_count": 10**6}, "is 1000000, wanted at most 2, for so many layers have tensors"),
        ({"llama.block_count": 10**12}, "is 1000000000000, wanted a whole number"),
        ({"llama.block_count": "2"}, "is '2', wanted a whole number"),
        ({"llama.block_count": True}, "is True, wanted a whole number"),
        ({"llama.attention.head_count": 10**6}, "wanted at most 128, the longest side of any tensor"),
        ({"llama.attention.head_count_kv": [8, 10**6]}, "wanted at most 128"),
        ({"llama.expert_count": 10**9}, "wanted at most 128"),
        ({"llama.attention.key_length": 10**12}, "wanted a whole number"),
        ({"llama.feed_forward_length": 129}, "wanted at most 128"),
        ({"llama.vocab_size": 7}, "is 7, wanted 6, for token_embd.weight has so many rows"),
        ({"llama.embedding_length": 32}, "is 32, wanted 64, for token_embd.weight has so many columns"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "is nan, wanted a number"),
        ({"llama.rope.freq_base": float("inf")}, "is inf, wanted a number"),
        ({"llama.rope.scaling.factor": "2"}, "is '2', wanted a number"),
        ({"llama.logit_scale": [1.0, float("-inf")]}, "wanted a number"),
        ({"tokenizer.ggml.tokens": list("abcdefg")}, "has 7 tokens, and token_embd.weight has 6 rows"),
    ],
)
def test_sizes_that_do_not_fit_are_told(tmp_path: Path, metadata: dict[str, Any], said: str) -> None:
    told = refusal(tmp_path, TENSORS, **metadata)
    assert told is not None
    assert said in told
    assert next(iter(metadata)) in told
    assert "m.gguf" in told


def test_layers_of_other_names_are_bounded_by_the_number_of_tensors(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"layers.0.w": (2, 2), "layers.1.w": (2, 2)}, **{"llama.block_count": 2}) is None
    said = refusal(tmp_path, {"layers.0.w": (2, 2)}, **{"llama.block_count": 2})
    assert said is not None
    assert "wanted at most 1" in said

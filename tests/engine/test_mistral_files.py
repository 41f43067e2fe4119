"""Models in Mistral's own files, in the whole engine: the tokens of the same models in the form of transformers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dovetail import LLM, SamplingParams
from dovetail.api import CheckpointError, ConfigError
from dovetail.engine.args import EngineArgs
from dovetail.engine.setup import make_plan

from ..tiny import write_tokenizer

transformers = pytest.importorskip("transformers")

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 256,
    # Large enough that likeliest tokens differ clearly, and greedy decoding does not hang on rounding.
    "initializer_range": 0.3,
}
YARN = {"rope_type": "yarn", "rope_theta": 5e4, "factor": 4.0, "original_max_position_embeddings": 32}
YARN_KEYS = {"original_max_position_embeddings": 32, "factor": 4, "beta": 32, "alpha": 1}
WINDOWS = {"sliding_window": 24}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MOE = {"moe": {"num_experts": 4, "num_experts_per_tok": 2}}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dense": ("Mistral", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}, {"rope_theta": 5e4}),
    "no base and no window": ("Mistral", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, {}),
    "a window and no base": (
        "Mistral",
        {**WINDOWS, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        WINDOWS,
    ),
    "tied": (
        "Mistral",
        {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"tied_embeddings": True},
    ),
    "yarn": ("Mistral", {"rope_parameters": YARN}, {"rope_theta": 5e4, "yarn": {**YARN_KEYS, "apply_scale": True}}),
    "yarn without its scale": (
        "Mistral",
        {"rope_parameters": {**YARN, "attention_factor": 1.0}},
        {"rope_theta": 5e4, "yarn": {**YARN_KEYS, "apply_scale": False}},
    ),
    "experts": ("Mixtral", {**EXPERTS, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, MOE),
}
GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
PROMPTS = [[(7 * i + n) % SHAPE["vocab_size"] for i in range(n)] for n in (1, 12, 60)]
NAMES = {
    r"model\.embed_tokens": "tok_embeddings",
    r"model\.norm": "norm",
    r"lm_head": "output",
    r"input_layernorm": "attention_norm",
    r"post_attention_layernorm": "ffn_norm",
    r"model\.layers": "layers",
    r"self_attn\.(.)_proj": r"attention.w\1",
    r"mlp\.gate_proj": "feed_forward.w1",
    r"mlp\.down_proj": "feed_forward.w2",
    r"mlp\.up_proj": "feed_forward.w3",
    r"block_sparse_moe": "feed_forward",
}


def own_name(name: str) -> str:
    for theirs, own in NAMES.items():
        name = re.sub(rf"\b{theirs}(?=\.)", own, name)
    return name


def with_adjacent_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """The rows of a projection such that each rotary pair is two adjacent ones."""
    return weight.view(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_own_files(folder: Path, tensors: Mapping[str, Tensor], keys: Mapping[str, Any]) -> Path:
    folder.mkdir()
    own = {}
    for name, value in tensors.items():
        turned = name.endswith(("q_proj.weight", "k_proj.weight"))
        own[own_name(name)] = with_adjacent_pairs(value, SHAPE["head_dim"]).contiguous() if turned else value
    save_file(own, folder / "consolidated.safetensors")
    params = {
        "dim": SHAPE["hidden_size"],
        "n_layers": SHAPE["num_hidden_layers"],
        "head_dim": SHAPE["head_dim"],
        "hidden_dim": SHAPE["intermediate_size"],
        "n_heads": SHAPE["num_attention_heads"],
        "n_kv_heads": SHAPE["num_key_value_heads"],
        "norm_eps": 1e-5,
        "vocab_size": SHAPE["vocab_size"],
        "max_position_embeddings": SHAPE["max_position_embeddings"],
        **keys,
    }
    (folder / "params.json").write_text(json.dumps(params))
    vocabulary = [
        {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)
    ]
    config = {
        "pattern": r"\p{L}+|\P{L}+",
        "num_vocab_tokens": 256,
        "default_vocab_size": 300,
        "default_num_special_tokens": 44,
        "version": "v3",
    }
    (folder / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocabulary}))
    return folder


def write_both(tmp_path: Path, case: str, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
    """The same model in the form of transformers, and in Mistral's own files."""
    family, config, keys = CASES[case]
    torch.manual_seed(3)
    cls = getattr(transformers, f"{family}ForCausalLM")
    model = cls(cls.config_class(**{**SHAPE, "rms_norm_eps": 1e-5, "sliding_window": None, **config})).to(dtype)
    hf = tmp_path / "hf"
    model.save_pretrained(hf)
    write_tokenizer(hf)
    return hf, write_own_files(tmp_path / "own", load_file(hf / "model.safetensors"), keys)


def generate(model: Path, **options: Any) -> list[list[int]]:
    llm = LLM(str(model), use_tqdm=False, dtype="float32", **options)
    prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
    return [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY, use_tqdm=False)]


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_the_form_of_transformers(tmp_path: Path, case: str) -> None:
    hf, own = write_both(tmp_path, case)
    assert generate(own) == generate(hf)


def test_a_text_goes_through_its_tokenizer_and_the_dtype_is_that_of_the_weights(tmp_path: Path) -> None:
    _, own = write_both(tmp_path, "dense", torch.bfloat16)
    llm = LLM(str(own), use_tqdm=False)
    assert make_plan(EngineArgs(model=str(own))).dtype == "bfloat16"
    (output,) = llm.generate(["Ab"], GREEDY, use_tqdm=False)
    assert output.prompt_token_ids == [1, 44 + ord("A"), 44 + ord("b")]


def test_the_form_of_transformers_is_read_where_it_is_whole(tmp_path: Path) -> None:
    hf, own = write_both(tmp_path, "dense")
    for file in own.iterdir():
        file.rename(hf / file.name)
    tokens = generate(hf)
    assert make_plan(EngineArgs(model=str(hf))).checkpoint.naming is None
    assert make_plan(EngineArgs(model=str(hf), load_format="mistral")).checkpoint.naming == "mistral"
    assert generate(hf, load_format="mistral") == tokens
    (hf / "tokenizer.json").unlink()
    assert make_plan(EngineArgs(model=str(hf))).checkpoint.naming == "mistral"


@pytest.mark.parametrize(
    ("case", "changes", "told"),
    [
        ("dense", {"dim": None}, r"own/params\.json lacks the key dim"),
        ("dense", {"norm_eps": None}, r"own/params\.json lacks the key norm_eps"),
        ("dense", {"n_heads": "4"}, r"params\.json says n_heads = '4', wanted a positive whole number"),
        ("dense", {"vision_encoder": {"dim": 8}}, r"vision_encoder = .*, wanted a model of text alone"),
        ("dense", {"quantization": {"qformat_weight": "fp8_e4m3"}}, "quantization = .*wanted weights that are not"),
        ("dense", {"llama_4_scaling": {"beta": 0.1}}, "llama_4_scaling = .*temperature"),
        ("dense", {"model_type": "mamba"}, "model_type = 'mamba', wanted transformer"),
        ("dense", {"causal": False}, "causal = False, wanted true"),
        ("dense", {"activation": "gelu"}, "hidden_act 'gelu' is not supported"),
        ("dense", {"sliding_window": [None, 8, 8]}, "sliding_window = .*one number and null"),
        ("dense", {"sliding_window": [[8], 8]}, "sliding_window = .*one number and null"),
        ("dense", {"yarn": {"factor": 4, "gamma": 2}}, r"yarn\.gamma = 2, wanted no keys beside factor"),
        ("dense", {"yarn": 4}, "yarn = 4, wanted an object"),
        ("experts", {"moe": [4, 2]}, "moe = .*, wanted an object"),
        ("experts", {"moe": {"num_experts": 4}}, r"lacks the key moe\.num_experts_per_tok"),
        ("experts", {"moe": {**MOE["moe"], "num_shared_experts": 1}}, r"moe\.num_shared_experts = 1, wanted no keys"),
    ],
)
def test_what_is_not_supported_is_refused_with_the_file_and_the_key(
    tmp_path: Path, case: str, changes: dict[str, Any], told: str
) -> None:
    folder = write_own_files(tmp_path / "own", {"norm.weight": torch.ones(4)}, CASES[case][2] | changes)
    with pytest.raises(ConfigError, match=told):
        make_plan(EngineArgs(model=str(folder)))


def test_layers_with_and_without_a_window(tmp_path: Path) -> None:
    keys = {"_sliding_window": [None, 24]}
    tensors = {f"{i}.weight": torch.ones(4) for i in range(4)}
    plan = make_plan(EngineArgs(model=str(write_own_files(tmp_path / "own", tensors, keys))))
    assert plan.config["layer_types"] == ["full_attention", "sliding_attention"] * 2
    assert plan.config["sliding_window"] == 24
    assert plan.config["rope_theta"] == 1e6


def test_a_missing_tensor_is_named_as_the_model_has_it(tmp_path: Path) -> None:
    _, own = write_both(tmp_path, "experts")
    tensors = load_file(own / "consolidated.safetensors")
    del tensors["layers.1.feed_forward.experts.2.w3.weight"]
    save_file(tensors, own / "consolidated.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.block_sparse_moe\.experts\.2\.w3"):
        generate(own)

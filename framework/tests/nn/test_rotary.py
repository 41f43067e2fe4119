"""Frequencies and angles of rotary embeddings, and what is read of old configurations, against transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from dovetail.api import DecoderConfig, LayerType, RopeParameters, read_rope
from dovetail.nn import LayerRotary, Rotary
from dovetail.nn.rotary import frequencies

LENGTH = "original_max_position_embeddings"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, LENGTH: 64}
YARN = {"rope_type": "yarn", "factor": 4.0, LENGTH: 64}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.05 * i for i in range(16)],
    "long_factor": [1.5 + 0.8 * i for i in range(16)],
    LENGTH: 64,
}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "llama3, far apart": {**LLAMA3, "low_freq_factor": 0.5, "high_freq_factor": 30.0},
    "yarn": YARN,
    "yarn, from the whole length": {"rope_type": "yarn", "factor": 2.5, LENGTH: 256},
    "yarn, attention factor": {**YARN, "attention_factor": 1.3},
    "yarn, mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0},
    "yarn, betas": {**YARN, "beta_fast": 16, "beta_slow": 2},
    "yarn, not truncated": {**YARN, "truncate": False},
    "yarn, smaller": {**YARN, "factor": 0.5},
    "longrope": LONGROPE,
    "longrope, factor": {**LONGROPE, "factor": 8.0},
    "longrope, attention factor": {**LONGROPE, "attention_factor": 1.3},
    "longrope, whole length": {**LONGROPE, LENGTH: 256},
}


@pytest.mark.parametrize("tokens", [64, 256, 1000])
@pytest.mark.parametrize(("head_dim", "part"), [(32, 1.0), (64, 0.5), (80, 0.4)])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_equal_those_of_transformers(name: str, head_dim: int, part: float, tokens: int) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = {**SCALINGS[name], "rope_theta": 5e4, "partial_rotary_factor": part}
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=256,
        rope_parameters=theirs,
    )
    wanted, factor = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, torch.device("cpu"), seq_len=tokens)
    found, own_factor = frequencies(32, RopeParameters(**theirs), 256, tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    assert own_factor == pytest.approx(factor)


SLIDING, FULL = "sliding_attention", "full_attention"
OLD: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"rope_theta": 5e5, "rope_scaling": {**LLAMA3}}, {}),
    "llama, linear": ("LlamaConfig", {"rope_scaling": {"type": "linear", "factor": 2.0}}, {}),
    "mistral": ("MistralConfig", {"rope_theta": 1e6}, {}),
    "gemma3": (
        "Gemma3TextConfig",
        {"rope_theta": 1e6, "rope_local_base_freq": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {},
    ),
    "gemma3, silent": ("Gemma3TextConfig", {}, {FULL: {"rope_theta": 1e6}, SLIDING: {"rope_theta": 1e4}}),
    "gemma3, one base": (
        "Gemma3TextConfig",
        {"rope_theta": 5e5},
        {FULL: {"rope_theta": 1e6}, SLIDING: {"rope_theta": 1e4}},
    ),
    "modernbert": ("ModernBertConfig", {"global_rope_theta": 7e4, "local_rope_theta": 5e3}, {}),
    "gpt_neox": ("GPTNeoXConfig", {"rotary_emb_base": 20000, "rotary_pct": 0.5}, {}),
    "gpt_neox, silent": ("GPTNeoXConfig", {}, {"partial_rotary_factor": 0.25}),
    "phi": ("PhiConfig", {"partial_rotary_factor": 0.4, "rope_theta": 2e4}, {}),
    "phi, silent": ("PhiConfig", {}, {"partial_rotary_factor": 0.5}),
    "phi3": (
        "Phi3Config",
        {
            "hidden_size": 64,
            "num_attention_heads": 2,
            LENGTH: 64,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16},
        },
        {},
    ),
    "qwen2": ("Qwen2Config", {"rope_theta": 1e6, "rope_scaling": {**YARN, "type": "yarn"}}, {}),
    "qwen2_vl": (
        "Qwen2VLTextConfig",
        {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        {},
    ),
    "glm4": ("Glm4Config", {"partial_rotary_factor": 0.5, "rope_parameters": {"rope_theta": 2e4}}, {}),
}


@pytest.mark.parametrize("name", OLD)
def test_old_configurations_are_read_as_transformers_reads_them(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    cls, data, defaults = OLD[name]
    config = getattr(transformers, cls)(**{key: dict(v) if isinstance(v, dict) else v for key, v in data.items()})
    theirs = config.rope_parameters
    own = read_rope(data, (SLIDING, FULL) if FULL in theirs else (), defaults)
    for kind, wanted in theirs.items() if FULL in theirs else (("", theirs),):
        found = own[kind if kind in own else ""].model_dump()
        wanted = {{"mrope_section": "sections"}.get(key, key): value for key, value in wanted.items()}
        assert wanted.keys() - {"type"} <= found.keys()
        for key, value in wanted.items():
            if key != "type":
                assert found[key] == (tuple(value) if isinstance(value, list) else value), key


def test_a_band_without_width_is_a_step() -> None:
    """Published with both bounds 1. The transition between them has no width, so nothing is in it."""
    scaling = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0, LENGTH: 8192}
    base, _ = frequencies(128, RopeParameters(rope_theta=5e5), 1, 1)
    found, factor = frequencies(128, RopeParameters(**scaling, rope_theta=5e5), 1, 1)
    turns = 8192 / (2 * torch.pi / base)
    assert torch.equal(found, torch.where(turns < 1, base / 16, base))
    assert (turns < 1).any()
    assert (turns > 1).any()
    assert factor == 1.0


@pytest.mark.parametrize(("most", "factor"), [(32, 1.1), (33, 1.3)])
def test_longrope_may_have_a_factor_for_each_list(most: int, factor: float) -> None:
    rope = {"rope_type": "longrope", LENGTH: 32, "attention_factor": 2.0, "short_mscale": 1.1, "long_mscale": 1.3}
    (read,) = read_rope({"rope_scaling": rope}).values()
    assert frequencies(8, read, 64, most)[1] == factor


def test_longrope_of_one_token_has_a_factor() -> None:
    assert frequencies(32, RopeParameters(rope_type="longrope", **{LENGTH: 1}), 64, 64)[1] == 1.0


KINDS = ["full_attention", "sliding_attention", "linear_attention", "full_attention", "chunked_attention"]


class AnyDecoder(DecoderConfig):
    supported_layer_types: ClassVar[tuple[LayerType, ...]] = tuple(dict.fromkeys(KINDS))  # type: ignore[assignment]


def decoder(**rope: Any) -> AnyDecoder:
    return AnyDecoder.model_validate(
        {
            "vocab_size": 5,
            "hidden_size": 64,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "sliding_window": 9,
            "layer_types": KINDS,
            "max_position_embeddings": 128,
            **rope,
        }
    )


def test_layer_types_have_their_own_angles() -> None:
    full = {"rope_type": "dynamic", "factor": 2.0, "partial_rotary_factor": 0.5}
    sliding = {"rope_theta": 500.0}
    config = decoder(
        rope_parameters={"full_attention": full, "sliding_attention": sliding, "chunked_attention": sliding}
    )
    positions = torch.tensor([0, 5, 100, 7])
    found = LayerRotary(config, max_tokens=512)(positions, torch.float64)
    assert set(found) == {"full_attention", "sliding_attention", "chunked_attention"}
    for kind, dim, parameters in (("full_attention", 16, full), ("sliding_attention", 32, sliding)):
        rotary = Rotary(dim, RopeParameters(**parameters), max_position=128, max_tokens=512)
        wanted = rotary(positions, torch.float64)
        assert torch.equal(found[kind].cos, wanted.cos)
        assert torch.equal(found[kind].sin, wanted.sin)
    assert found["chunked_attention"] is found["sliding_attention"]


def test_layer_types_without_parameters_of_their_own_share_one_rotary_embedding() -> None:
    rotary = LayerRotary(decoder(rope_theta=500.0), max_tokens=128)
    assert len(rotary.rotaries) == 1
    found = rotary(torch.arange(3), torch.float32)
    assert len({id(rope) for rope in found.values()}) == 1
    assert set(found) == set(KINDS)

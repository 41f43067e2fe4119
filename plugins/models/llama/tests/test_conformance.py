"""The conformance kit, over configurations that use every claim of the card."""

from __future__ import annotations

import dovetail_models_llama
import pytest
import torch
from dovetail_models_llama.config import GraniteConfig, LlamaConfig, MistralConfig, SmolLM3Config

from dovetail.api import CheckpointError, ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration, random_checkpoint, run_tokens

CARDS = {card.name: card for card in dovetail_models_llama.dovetail_register_models()}
CARD, MISTRAL, GRANITE = (CARDS[name] for name in ("llama", "mistral", "granite"))
SMOLLM3 = [card for name, card in CARDS.items() if name.startswith("smollm3")]

TINY = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_llama)


BIASED = {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 20}
MULTIPLIED = {
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.1,
    "logits_scaling": 3.0,
}


@pytest.mark.parametrize("name", ["llama", "llama-embedding", "llama-classifier"])
def test_every_claim(name: str) -> None:
    check_model(CARDS[name], {**TINY, "num_labels": 3}, {**TINY, **BIASED})


@pytest.mark.parametrize("name", ["mistral", "mistral-embedding", "mistral-classifier"])
def test_every_claim_with_a_window(name: str) -> None:
    check_model(CARDS[name], {**TINY, "num_labels": 3}, {**TINY, "sliding_window": 9})


@pytest.mark.parametrize("name", ["granite", "granite-embedding"])
def test_every_claim_with_multipliers(name: str) -> None:
    check_model(CARDS[name], {**TINY, **MULTIPLIED})


@pytest.mark.parametrize("card", SMOLLM3, ids=lambda card: card.name)
def test_every_claim_with_layers_without_positions(card: ModelCard) -> None:
    keys = {**TINY, "no_rope_layer_interval": 2}
    window = {"use_sliding_window": True, "sliding_window": 9, "tie_word_embeddings": False, "attention_bias": True}
    check_model(card, keys, {**keys, **window}, positions="some")


def test_frequency_factors_of_a_checkpoint_are_taken() -> None:
    tensors = random_checkpoint(CARD, TINY, optional=True)
    del tensors["lm_head.weight"]
    build_model(CARD, {**TINY, "tie_word_embeddings": True}, tensors)


def windowed(**changes: object) -> MistralConfig:
    return MistralConfig.model_validate({**TINY, **changes})


def parsed(**changes: object) -> LlamaConfig:
    return LlamaConfig.model_validate({**TINY, **changes})


def test_defaults_follow_from_other_keys() -> None:
    config = parsed(num_key_value_heads=None, head_dim=None)
    assert (config.num_key_value_heads, config.head_dim) == (4, 12)
    assert GraniteConfig.model_validate(TINY).attention_multiplier == 1.0
    silent = MistralConfig.model_validate({**TINY, "num_attention_heads": 8, "num_key_value_heads": None})
    assert (silent.num_key_value_heads, silent.sliding_window) == (8, 4096)
    assert MistralConfig.model_validate({**TINY, "sliding_window": None}).sliding_window is None


@pytest.mark.parametrize(
    ("keys", "kind", "theta"),
    [
        ({}, "default", 10000.0),
        ({"rope_theta": 5e5}, "default", 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear", 5e5),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}, "linear", 5e5),
        ({"rope_scaling": None, "rope_parameters": None}, "default", 10000.0),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}, "linear", 5e5),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}}}, "default", 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": None, "rope_type": None}}, "default", 5e5),
        ({"partial_rotary_factor": 1.0}, "default", 10000.0),
    ],
)
def test_rope_keys_of_all_ages(keys: dict[str, object], kind: str, theta: float) -> None:
    rope = parsed(**keys).rope_for(0)
    assert (rope.rope_type, rope.rope_theta) == (kind, theta)


@pytest.mark.parametrize(("window", "kept"), [(None, None), (9, 9), (127, 127), (128, None), (4096, None)])
def test_a_window_as_long_as_the_context_is_none(window: int | None, kept: int | None) -> None:
    assert windowed(sliding_window=window).window(0) == kept


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"hidden_act": "mish"}, r"hidden_act: wanted one of silu, .* \(found 'mish'"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_type is 'spiral', wanted one of default, linear"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "the type 'mrope' lacks mrope_section"),
        ({"rope_scaling": {"factor": 2.0}}, "factor 2.0 and names no rope_type"),
        ({"rope_scaling": {"type": "su", "long_factor": [1.0], "short_factor": [1.0]}}, "long_factor has 1 numbers"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', wanted an object"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\], wanted an object"),
        ({"rope_scaling": {"type": "linear", "factor": "4.0"}}, "factor is '4.0', wanted a number above 0"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0, wanted a number above 0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "lacks factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "lacks low_freq_factor, high_freq_factor"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
        ({"is_causal": False}, "is_causal is false, which is not supported"),
        ({"is_causal": None}, "is_causal is false, which is not supported"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})


def test_frequencies_that_old_checkpoints_saved_are_left_out() -> None:
    saved = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    build_model(CARD, TINY, {**random_checkpoint(CARD, TINY), **saved})


LINEAR, YARN = {"type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("scaling", "usual", "longest"),
    [
        (None, 128, 128),
        (LINEAR, 128, 512),
        ({"type": "dynamic", "factor": 2.5}, 128, 320),
        (YARN, 128, 512),
        # The length that is stretched is named, so there is no doubt.
        ({**LINEAR, "original_max_position_embeddings": 64}, 256, 256),
        ({**LINEAR, "original_max_position_embeddings": 32}, 128, 128),
        ({**YARN, "original_max_position_embeddings": 64}, 256, 256),
        # Llama 3.2 multiplies by 32, and was trained for 16 times the length.
        (
            {
                "rope_type": "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8,
            },
            128,
            128,
        ),
    ],
)
def test_lengths_that_scalings_were_made_for(scaling: dict[str, object] | None, usual: int, longest: int) -> None:
    config = parsed(rope_scaling=scaling)
    assert (config.context_length(), config.longest_context()) == (usual, longest)


def test_a_window_holds_past_the_length_that_the_file_promises() -> None:
    assert windowed(sliding_window=128, rope_scaling=LINEAR).window(1) == 128


def test_biases_are_taken_where_the_checkpoint_brings_them() -> None:
    keys = {"attention_bias": "optional", "mlp_bias": "optional"}
    whole = random_checkpoint(CARD, {**TINY, "attention_bias": True, "mlp_bias": True})
    tokens = list(range(20))

    def logits(config: dict[str, object], tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return run_tokens(*build_model(CARD, {**TINY, **config}, tensors), tokens)

    assert torch.equal(logits(keys, whole), logits({"attention_bias": True, "mlp_bias": True}, whole))
    plain = {name: value for name, value in whole.items() if not name.endswith(".bias")}
    assert torch.equal(logits(keys, plain), logits({}, plain))
    some = plain | {name: value for name, value in whole.items() if name.endswith("layers.1.self_attn.q_proj.bias")}
    zeros = {name: torch.zeros_like(value) for name, value in whole.items() if name.endswith("_proj.bias")}
    assert len(some) == len(plain) + 1
    filled = logits({"attention_bias": True, "mlp_bias": True}, zeros | some)
    assert torch.allclose(logits(keys, some), filled)
    assert not torch.allclose(logits(keys, plain), filled)
    with pytest.raises(CheckpointError, match=r"unexpected: .*q_proj\.bias"):
        build_model(CARD, TINY, some)


def smollm3(**changes: object) -> SmolLM3Config:
    return SmolLM3Config.model_validate({**TINY, "num_hidden_layers": 4, **changes})


@pytest.mark.parametrize(
    ("keys", "turned", "windows"),
    [
        ({}, [True, True, True, False], [None] * 4),
        ({"no_rope_layer_interval": 2}, [True, False, True, False], [None] * 4),
        ({"no_rope_layers": [0, 1, 1, 1, 0]}, [False, True, True, True], [None] * 4),
        ({"sliding_window": 9}, [True, True, True, False], [None] * 4),
        ({"sliding_window": 9, "use_sliding_window": True}, [True, True, True, False], [None, None, None, 9]),
    ],
)
def test_layers_without_positions(keys: dict[str, object], turned: list[bool], windows: list[int | None]) -> None:
    config = smollm3(**keys)
    assert ([config.has_rope(i) for i in range(4)], [config.window(i) for i in range(4)]) == (turned, windows)


def test_defaults_of_smollm3() -> None:
    sizes = {key: TINY[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    config = SmolLM3Config.model_validate({**sizes, "num_attention_heads": 8})
    assert (config.num_key_value_heads, config.tie_word_embeddings, config.max_position_embeddings) == (4, True, 32768)
    assert config.rope_for(0).rope_theta == 2e6
    assert smollm3(num_key_value_heads=None).num_key_value_heads == 4
    assert (
        SmolLM3Config.model_validate(
            {**sizes, "num_attention_heads": 8, "num_key_value_heads": None}
        ).num_key_value_heads
        == 8
    )


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"no_rope_layers": [1]}, "no_rope_layers has 1 entries, wanted one for each of 2 layers"),
        ({"no_rope_layers": ["no", "yes"]}, "no_rope_layers"),
        ({"no_rope_layer_interval": 0}, "no_rope_layer_interval: Input should be greater than 0"),
        ({"sliding_window": 9, "layer_types": ["sliding_attention"] * 2}, "there is no sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ],
)
def test_what_smollm3_cannot_honour_is_refused(keys: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(SMOLLM3[0], {**TINY, **keys}, {})

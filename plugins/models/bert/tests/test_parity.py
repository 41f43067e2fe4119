"""Hidden states and logits against transformers, over tiny random models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dovetail_models_bert import dovetail_register_models

from dovetail.testing import build_model, check_parity, run_batch, run_tokens
from dovetail.testing.comparison import relative_error, tolerance

transformers = pytest.importorskip("transformers")

ENCODER, CLASSIFIER, ROBERTA, CROSS_ENCODER, *_ = dovetail_register_models()

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "attn_implementation": "eager",
}

CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "other activation": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu"},
    "other epsilon": {"layer_norm_eps": 1e-2},
    "one type": {"type_vocab_size": 1},
}


def reference(kind: str, changes: dict[str, Any]) -> Any:
    """A random model, its norms and biases included."""
    torch.manual_seed(1)
    model = getattr(transformers, kind)(transformers.BertConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def prompt(length: int = 100, seed: int = 2) -> torch.Tensor:
    return torch.randint(0, BASE["vocab_size"], (length,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_equal_those_of_transformers(case: str) -> None:
    theirs, tokens = reference("BertModel", CASES[case]), prompt()
    with torch.no_grad():
        wanted = theirs(tokens[None]).last_hidden_state[0]
    model, ctx = build_model(ENCODER, theirs.config.to_dict(), dict(theirs.state_dict()))
    torch.testing.assert_close(run_tokens(model, ctx, tokens.tolist()), wanted, rtol=0, atol=1e-4)


def test_requests_of_a_batch_do_not_see_each_other() -> None:
    theirs = reference("BertModel", {})
    model, ctx = build_model(ENCODER, theirs.config.to_dict(), dict(theirs.state_dict()))
    prompts = [prompt(length, seed) for seed, length in enumerate((7, 1, 33))]
    found = run_batch(model, ctx, [{i: tokens.tolist() for i, tokens in enumerate(prompts)}])
    for i, tokens in enumerate(prompts):
        with torch.no_grad():
            wanted = theirs(tokens[None]).last_hidden_state[0]
        torch.testing.assert_close(found[i], wanted, rtol=0, atol=1e-4)


def test_hidden_states_in_bfloat16_differ_by_rounding_only() -> None:
    theirs, tokens = reference("BertModel", {}), prompt()
    with torch.no_grad():
        exact = theirs(tokens[None]).last_hidden_state[0]
        rounded = theirs.bfloat16()(tokens[None]).last_hidden_state[0].float()
    model, ctx = build_model(ENCODER, theirs.config.to_dict(), dict(theirs.state_dict()), dtype="bfloat16")
    error = relative_error(run_tokens(model, ctx, tokens.tolist()).flatten(), exact.flatten())
    assert error < tolerance(torch.bfloat16, 4)
    assert error < 1.5 * relative_error(rounded.flatten(), exact.flatten())


@pytest.mark.parametrize("labels", [1, 3])
def test_labels_equal_those_of_transformers(labels: int) -> None:
    theirs, tokens = reference("BertForSequenceClassification", {"num_labels": labels}), prompt()
    with torch.no_grad():
        wanted = theirs(tokens[None]).logits
    model, ctx = build_model(CLASSIFIER, theirs.config.to_dict(), dict(theirs.state_dict()))
    first = run_tokens(model, ctx, tokens.tolist())[:1]
    found = model.pooled_logits(first)
    assert found.shape == (1, labels)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_names_in_all_forms() -> None:
    """With and without prefix, of the first checkpoints, and with heads and buffers that are left out."""
    theirs, tokens = reference("BertForPreTraining", {}), prompt().tolist()
    tensors = dict(theirs.state_dict())
    assert any(name.startswith("cls.predictions.") for name in tensors)
    assert any(name.startswith("bert.pooler.") for name in tensors)
    config = theirs.config.to_dict() | {"architectures": ["BertModel"]}
    bare = {name.removeprefix("bert."): value for name, value in tensors.items() if name.startswith("bert.")}
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    saved = {"bert.embeddings.position_ids": torch.arange(128)[None]}
    assert bare.keys() & tensors.keys() == set()
    assert old.keys() != tensors.keys()
    wanted = run_tokens(*build_model(ENCODER, config, tensors), tokens)
    for form in (bare, old, tensors | saved):
        assert torch.equal(run_tokens(*build_model(ENCODER, config, form), tokens), wanted)


SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
}


def with_positions(name: str) -> Callable[[dict[str, Any]], torch.nn.Module]:
    """The original with the positions of prompts without padding, whose token would move those after it."""

    def make(given: dict[str, Any]) -> torch.nn.Module:
        cls = getattr(transformers, name)
        model = cls(cls.config_class(**{key: value for key, value in given.items() if key != "architectures"}))
        forward, first = model.forward, model.config.pad_token_id + 1
        model.forward = lambda ids: forward(ids, position_ids=torch.arange(first, first + ids.shape[1])[None])
        return model

    return make


@pytest.mark.parametrize(("name", "padding"), [("XLMRobertaModel", 1), ("RobertaModel", 0)])
def test_hidden_states_of_roberta(name: str, padding: int) -> None:
    config = {**SMALL, "architectures": [name], "pad_token_id": padding, "type_vocab_size": 1}
    check_parity(ROBERTA, config, with_positions(name), chunks=(None,))


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("name", ["XLMRobertaForSequenceClassification", "RobertaForSequenceClassification"])
def test_labels_and_scores_of_roberta(name: str, labels: int) -> None:
    config = {**SMALL, "architectures": [name], "pad_token_id": 1, "num_labels": labels}
    check_parity(CROSS_ENCODER, config, with_positions(name), chunks=(None,))

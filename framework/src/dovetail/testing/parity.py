"""Tests of parity: a model's results against those of the original implementation.

Letters: T tokens, V vocabulary, C channels.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from dovetail.api import ModelCard
from dovetail.nn import CausalLM
from dovetail.testing.comparison import assert_close, label
from dovetail.testing.harness import build_model, one_thread, parse_config, run_tokens
from dovetail.testing.resolution import claim

TOKENS = 96
"""Of the compared prompt, unless the configuration's context is shorter."""
Original = Callable[[dict[str, Any]], nn.Module]
"""Makes the original model from a configuration. Its ``state_dict`` has the checkpoint's names. Called with ids
``[1, T]``, it gives an object with ``logits`` ``[1, T, V]`` (or ``last_hidden_state`` ``[1, T, C]``), or that tensor.
"""


@one_thread()
def check_parity(
    card: ModelCard,
    config: Mapping[str, Any],
    original: str | Original | None = None,
    *,
    seed: int = 0,
    limit: float = 1e-4,
    chunks: Sequence[int | None] = (None, 7),
) -> None:
    """Compare a model with its original implementation: random weights, one prompt, every token's logits in float32 (of
    a model without a head, its hidden states).

    The tensors and the configuration go through a checkpoint that transformers writes, so their names are those of
    published files.

    Args:
        config: keys of ``config.json``, small. The original's class completes it.
        original: name of the original's class in transformers; by default the configuration's architecture, or else the
            card's first. Or a function that makes the original, if transformers does not have it.
        seed: of the weights and the prompt.
        limit: on the relative error of a token's logits.
        chunks: sizes of the chunks in which the prompt is computed, each compared; None computes it at once.

    Raises:
        AssertionError: the results differ; or the original's checkpoint or configuration is refused.
        SkipTest: transformers is not installed, or does not have the class.
    """
    named = [*config.get("architectures", ()), *card.architectures]
    theirs, whole, tensors = (
        _write_by_hand(original, {"architectures": named[:1], **config}, seed)
        if callable(original)
        else _write_with_transformers(original or named[0], config, seed)
    )
    if original is not None and not set(whole.get("architectures") or ()) & set(card.architectures):
        whole["architectures"] = named[:1]
    who = f"{label(card)} and the original implementation, {type(theirs).__name__}"
    with claim(f"{label(card)} refuses what the original implementation writes"):
        length = min(TOKENS, parse_config(card, whole).context_length())
        model, ctx = build_model(card, whole, tensors, max_tokens=length)
    tokens = torch.randint(
        parse_config(card, whole).vocab_size, (length,), generator=torch.Generator().manual_seed(seed)
    )
    with torch.inference_mode():
        expected = _results(theirs(tokens[None]), isinstance(model, CausalLM))[0].float()
    assert torch.isfinite(expected).all(), f"{who}: the original's results are not all finite"
    assert (expected[0] - expected[-1]).norm() > 0.01 * expected[0].norm(), (
        f"{who}: the original gives all tokens the same results, so a difference would not show"
    )
    for size in chunks:
        text = f"{who}: the results of a prompt {'whole' if size is None else f'in chunks of {size}'}"
        assert_close(run_tokens(model, ctx, tokens.tolist(), size), expected, limit, text)


def _results(output: Any, logits: bool) -> Tensor:
    name = "logits" if logits else "last_hidden_state"
    found: Tensor = getattr(output, name, output)
    return found


def _write_by_hand(
    make: Original, config: dict[str, Any], seed: int
) -> tuple[nn.Module, dict[str, Any], dict[str, Tensor]]:
    model = make(dict(config)).eval()
    _randomize(model, seed)
    return model, config, dict(model.state_dict())


def _write_with_transformers(
    name: str, config: Mapping[str, Any], seed: int
) -> tuple[nn.Module, dict[str, Any], dict[str, Tensor]]:
    """The original, its ``config.json`` and its tensors, as in a published checkpoint.

    Raises:
        SkipTest: transformers is not installed, or does not have the class.
    """
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise SkipTest(f"transformers cannot be imported ({error}): pip install transformers") from None
    cls = getattr(transformers, name, None)
    if cls is None:
        raise SkipTest(
            f"transformers {transformers.__version__} does not have {name}: name the class of the original that it has, "
            "or give check_parity a function that makes it"
        )
    known = {key: value for key, value in config.items() if key not in ("architectures", "model_type")}
    model = cls(cls.config_class(**known, attn_implementation="eager")).eval()
    _randomize(model, seed)
    transformers.utils.logging.disable_progress_bar()
    load_file = import_module("safetensors.torch").load_file
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        written = json.loads((Path(folder) / "config.json").read_text())
        tensors = {k: v for file in sorted(Path(folder).glob("*.safetensors")) for k, v in load_file(file).items()}
    return model, written, tensors


def _randomize(model: nn.Module, seed: int) -> None:
    """Give every parameter and every stored buffer random values: matrices that keep activations near one, vectors
    around what they were initialised with, so that none is left out of the comparison unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    stored = model.state_dict(keep_vars=True)
    seen: set[int] = set()
    with torch.no_grad():
        for value in stored.values():
            if not value.is_floating_point() or value.data_ptr() in seen:
                continue
            seen.add(value.data_ptr())  # a tied head is its embedding
            noise = torch.randn(value.shape, generator=generator).to(value)
            if value.dim() < 2:
                value.add_(0.3 * noise)
            else:
                value.copy_(noise * value.shape[-1] ** -0.5)

"""Tests of parity: a model's results against those of the original implementation.

Letters: T tokens, V vocabulary, C channels.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from unittest import SkipTest

import torch
from torch import Tensor, nn

from dovetail.api import ModelCard, PoolingType, join_names
from dovetail.nn import CausalLM, Context, PoolingModel
from dovetail.testing.comparison import assert_close, label
from dovetail.testing.harness import build_model, one_thread, parse_config, run_tokens
from dovetail.testing.resolution import claim

TOKENS = 96
"""Of the compared prompt, unless the configuration's context is shorter."""
Original = Callable[[dict[str, Any]], nn.Module]
"""Makes the original model from a configuration.

Its argument is the caller's configuration, ``architectures`` among its keys, as a dictionary of its own. Its result has
any weights, which are replaced by random ones. Called with ids int64 ``[1, T]``, the result gives an object with
``logits`` ``[1, T, V]`` (``[1, K]`` of a classifier; of a model without a head, ``last_hidden_state`` ``[1, T, C]``), or
that tensor. If it has
``save_pretrained``, as models of transformers have, its checkpoint is what that writes; otherwise its ``state_dict``,
whose names are those that the plugin expects.
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
    a model without a head, its hidden states; of a classifier, the labels' logits of the prompt).

    The tensors and the configuration go through a checkpoint that transformers writes, so their names are those of
    published files. transformers also writes keys that many published files lack, so the model is built a second time
    from the configuration as it was given: its defaults are compared with the original's, too.

    Args:
        config: keys of ``config.json``, small. The original's class completes it, and the model must accept it as it is.
        original: name of the original's class in transformers; by default the configuration's architecture, or else the
            card's first. Or a function that makes the original, see :data:`dovetail.testing.Original`:
            ``lambda config: Original(OriginalConfig(**config))``.
        seed: of the weights and the prompt.
        limit: on the relative error of a token's logits.
        chunks: sizes of the chunks in which the prompt is computed, each compared; None computes it at once.

    Raises:
        AssertionError: the results differ; or the original's checkpoint, its configuration or the given one is refused.
        SkipTest: transformers is not installed, or does not have the class.
    """
    named = [*config.get("architectures", ()), *card.architectures]
    given = {"architectures": named[:1], **config}
    theirs = original(dict(given)) if callable(original) else _make_with_transformers(original or named[0], config)
    theirs = theirs.eval()
    _randomize(theirs, seed)
    written, tensors = _write(theirs)
    if written is not None and not set(written.get("architectures") or ()) & set(card.architectures):
        written["architectures"] = named[:1]
    who = f"{label(card)} and the original implementation, {type(theirs).__name__}"
    whole = given if written is None else written
    with claim(f"{label(card)} refuses what the original implementation writes"):
        length = min(TOKENS, parse_config(card, whole).context_length())
    with claim(f"{label(card)} refuses the configuration that check_parity was given"):
        length = min(length, parse_config(card, given).context_length())
    with claim(f"{label(card)} refuses what the original implementation writes"):
        model, ctx = build_model(card, whole, tensors, max_tokens=length)
    tokens = torch.randint(
        parse_config(card, whole).vocab_size, (length,), generator=torch.Generator().manual_seed(seed)
    )
    labels = bool({"classify", "score"} & set(card.tasks))
    with torch.inference_mode():
        expected = _results(theirs(tokens[None]), labels or isinstance(model, CausalLM)).float()
    expected = expected if labels else expected[0]
    assert torch.isfinite(expected).all(), f"{who}: the original's results are not all finite"
    assert labels or (expected[0] - expected[-1]).norm() > 0.01 * expected[0].norm(), (
        f"{who}: the original gives all tokens the same results, so a difference would not show"
    )
    pooling = parse_config(card, whole).pooling() or card.pooling
    for size in chunks:
        text = f"{who}: the results of a prompt {'whole' if size is None else f'in chunks of {size}'}"
        assert_close(_run(card, model, ctx, tokens, size, pooling), expected, limit, text)
    if written is None:
        return
    read, as_given = parse_config(card, whole), parse_config(card, given)
    differing = [name for name in type(read).model_fields if getattr(read, name) != getattr(as_given, name)]
    text = (
        f"{who}: the results with the configuration as it was given, and not as transformers completed it "
        f"({join_names(differing)} differ)"
    )
    with claim(text):
        model, ctx = build_model(card, given, tensors, max_tokens=length)
    assert_close(_run(card, model, ctx, tokens, None, as_given.pooling() or card.pooling), expected, limit, text)


def _run(
    card: ModelCard, model: PoolingModel, ctx: Context, tokens: Tensor, chunk: int | None, pooling: PoolingType
) -> Tensor:
    """What is compared: logits or hidden states of each token, or the labels' logits of the prompt."""
    found = run_tokens(model, ctx, tokens.tolist(), chunk)
    if not {"classify", "score"} & set(card.tasks):
        return found
    pooled = {"cls": found[:1], "last": found[-1:], "mean": found.mean(0, keepdim=True)}[pooling]
    return model.pooled_logits(pooled)


def _results(output: Any, logits: bool) -> Tensor:
    name = "logits" if logits else "last_hidden_state"
    found: Tensor = getattr(output, name, output)
    return found


def _write(model: nn.Module) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """The original's ``config.json`` (None if it writes none) and its tensors, as in a published checkpoint."""
    if not hasattr(model, "save_pretrained"):
        return None, dict(model.state_dict())
    if (transformers := sys.modules.get("transformers")) is not None:
        cast(Any, transformers).utils.logging.disable_progress_bar()
    load_file = import_module("safetensors.torch").load_file
    with tempfile.TemporaryDirectory() as folder:
        cast(Any, model).save_pretrained(folder)
        file = Path(folder) / "config.json"
        written = json.loads(file.read_text()) if file.is_file() else None
        tensors = {k: v for file in sorted(Path(folder).glob("*.safetensors")) for k, v in load_file(file).items()}
    return written, tensors


def _make_with_transformers(name: str, config: Mapping[str, Any]) -> nn.Module:
    """The original.

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
    model: nn.Module = cls(cls.config_class(**known, attn_implementation="eager"))
    return model


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

"""Conformance tests of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from dovetail.api import (
    AttentionFeature,
    AttentionRequirement,
    CheckpointError,
    DType,
    ModelCard,
    PlatformCard,
    UsageError,
)
from dovetail.api.text import join_names
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.resolve import find_dtype
from dovetail.nn import CausalLM, Head, Parallel
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.harness import (
    build_model,
    empty_model,
    lazy_tensors,
    parse_config,
    random_checkpoint,
    run_batch,
    run_tokens,
    store_together,
)
from dovetail.testing.host_reads import HostReadError, host_reads_refused
from dovetail.testing.positions import Positions, check_positions
from dovetail.testing.ranks import run_ranks
from dovetail.testing.resolution import assert_refused, claim, refusal_message

LENGTH = 37
EVERY_DTYPE: tuple[DType, ...] = ("float64", "float32", "bfloat16", "float16")


def check_model(card: ModelCard, *configs: Mapping[str, Any], positions: Positions = "all") -> None:
    """Check every claim of a model's card with tiny configurations and random weights.

    Checks that each claimed architecture's name and each claimed dtype builds and runs; that a prompt gives the same
    logits whole, in chunks, token by token, and in a batch with others; that the model's own code reads no tensor on the
    host; that layers know the positions of tokens; that they require the attention that the configuration announces, and
    that the configurations together require every claimed feature; that layers are of the kinds that the card lists; that
    a checkpoint gives the same logits in every form in which its weights may be stored together; that tensors which are
    missing, unexpected or misshapen are refused by name; that there is a head for each claimed task; that two or three
    devices share the weights and give the same logits; and that a dtype which is not claimed is refused by resolution.

    Args:
        configs: as in ``config.json``, small; together they use every claimed feature of attention and kind of layer.
        positions: the attention layers whose queries and keys depend on their token's position, by a rotary embedding or
            otherwise: ``all``; ``some``, as in models that have layers without; or ``none``.

    Raises:
        AssertionError: names the claim that failed.
    """
    assert configs, f"{label(card)}: give at least one configuration"
    asked = {
        f for config in configs for requirement in _attention_requirements(card, config) for f in requirement.features
    }
    assert asked >= set(card.attention), (
        f"{label(card)} claims {', '.join(sorted(set(card.attention) - asked))} attention, but no configuration given here asks for it"
    )
    check_layer_kinds(card, *configs)
    try:
        for config in configs:
            check_architectures(card, config)
            check_attention_requirements(card, config)
            check_dtypes(card, config)
            check_schedules(card, config)
            with claim(f"{label(card)}: positions of tokens"):
                check_positions(card, config, positions)
            check_tensors(card, config)
            check_forms(card, config)
            check_tasks(card, config)
            check_cuts(card, config)
    except HostReadError as read:
        raise AssertionError(f"{label(card)}: {read}") from None
    check_unclaimed_dtypes(card, configs[0])


def _attention_requirements(card: ModelCard, config: Mapping[str, Any]) -> tuple[AttentionRequirement, ...]:
    with claim(f"{label(card)}: its configuration accepts {dict(config)}"):
        return parse_config(card, config).attention_requirements()


def _prompt(card: ModelCard, config: Mapping[str, Any], seed: int = 0) -> list[int]:
    vocabulary = parse_config(card, config).vocab_size
    found: list[int] = torch.randint(vocabulary, (LENGTH,), generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def check_architectures(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check that every claimed architecture resolves to a model."""
    for architecture in card.architectures:
        with claim(f"{label(card)} claims the architecture {architecture}"):
            empty_model(card, {**config, "architectures": [architecture]}, max_tokens=LENGTH)


def check_layer_kinds(card: ModelCard, *configs: Mapping[str, Any]) -> None:
    """Check that every layer is of a kind that the card lists, and that the configurations use all of them."""
    used: set[str] = set()
    for config in configs:
        _, ctx = empty_model(card, config, max_tokens=LENGTH)
        for name, layer in ctx.layers.items():
            assert layer.kind in card.layer_kinds, (
                f"{label(card)}: {name} is of the kind {layer.kind}, which its card does not list in layer_kinds"
            )
            used.add(layer.kind)
    unused = sorted(set(card.layer_kinds) - used - {"linear", "head", "embedding"})  # the default names all of these
    assert not unused, (
        f"{label(card)} lists layers of the kind {', '.join(unused)}, but no configuration given here has them"
    )


def check_attention_requirements(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check that the configuration announces what the layers require, and that the card claims it."""
    needs = _attention_requirements(card, config)
    _, ctx = empty_model(card, config, max_tokens=LENGTH)
    announced = {_describe_attention(r.features, r.head_dim, r.values) for r in needs}
    found = {
        _describe_attention(spec.features, spec.head_dim, spec.values)
        for spec in (layer.spec for layer in ctx.attention_layers)
    }
    assert found == announced, (
        f"{label(card)}: attention_requirements() announces {' and '.join(sorted(announced))}, "
        f"its layers ask for {' and '.join(sorted(found))}"
    )
    for requirement in needs:
        for feature in requirement.features:
            assert feature in card.attention, (
                f"{label(card)} asks for {feature} attention, which its card does not claim"
            )


def _describe_attention(features: frozenset[AttentionFeature], head_dim: int, values: int) -> str:
    size = f"{head_dim} with values of {values}" if values != head_dim else f"{head_dim}"
    return f"{'+'.join(sorted(features)) or 'plain'} attention with heads of {size}"


def check_dtypes(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check that every claimed dtype gives finite logits, close to float32's within rounding."""
    tensors = random_checkpoint(card, config)
    tokens = _prompt(card, config)
    exact = _logits(card, config, tensors, "float32", tokens)
    for dtype in card.dtypes:
        text = f"{label(card)} claims {dtype}"
        with claim(text):
            logits = _logits(card, config, tensors, dtype, tokens)
        assert torch.isfinite(logits).all(), f"{text}: its logits are not all finite"
        # One norm over all logits: a single row may be unlucky in 8 bits of mantissa.
        assert_close(logits.flatten(), exact.flatten(), tolerance(dtype_of(dtype), 32), f"{text}: its logits")


def _logits(
    card: ModelCard, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str, tokens: list[int]
) -> Tensor:
    model, ctx = build_model(card, config, tensors, dtype=dtype, max_tokens=LENGTH)
    logits = run_tokens(model, ctx, tokens)
    parsed = parse_config(card, config)
    expected = (len(tokens), parsed.vocab_size if isinstance(model, CausalLM) else parsed.hidden_size)
    assert tuple(logits.shape) == expected, f"its outputs are {list(logits.shape)}, wanted {list(expected)}"
    return logits


def check_schedules(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check that logits are the same for a whole prompt, in chunks, token by token, and with other requests. A model
    whose tokens see the whole prompt is only given whole ones.
    """
    model, ctx = build_model(card, config, random_checkpoint(card, config), max_tokens=LENGTH)
    tokens, other, third = (_prompt(card, config, seed) for seed in range(3))
    whole = run_tokens(model, ctx, tokens)
    limit = tolerance(torch.float32, 400)
    chunked: dict[str, int | list[int]] = {"chunks of 8": 8, "uneven chunks": [1, 20, 1, 15], "chunks of one token": 1}
    schedule: list[dict[int, list[int]]] = [
        {1: other[:5], 0: tokens[:19]},
        {0: tokens[19:20], 2: third[:30], 1: other[5:]},
        {2: third[30:], 0: tokens[20:]},
    ]
    if any("bidirectional" in requirement.features for requirement in _attention_requirements(card, config)):
        chunked, schedule = {}, [{1: other, 0: tokens, 2: third}]
    for name, chunks in chunked.items():
        assert_close(
            run_tokens(model, ctx, tokens, chunks), whole, limit, f"{label(card)}: a prompt in {name} and whole"
        )
    together = run_batch(model, ctx, schedule)
    alone = {0: whole, 1: run_tokens(model, ctx, other), 2: run_tokens(model, ctx, third)}
    for request, logits in together.items():
        assert_close(logits, alone[request], limit, f"{label(card)}: a prompt in a batch and alone")


def check_tasks(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check the heads: ``generate`` requires logits, ``classify`` labels, and ``score`` one score."""
    model, ctx = build_model(card, config, random_checkpoint(card, config), max_tokens=LENGTH)
    for task in card.tasks:
        text = f"{label(card)} claims the task {task}"
        if task == "generate":
            assert isinstance(model, CausalLM), f"{text}, and its class is not built on CausalLM"
        elif task != "embed":
            pooled = torch.randn(3, parse_config(card, config).hidden_size, dtype=ctx.dtype)
            with claim(text), torch.inference_mode(), host_reads_refused(ctx):
                logits = model.pooled_logits(pooled)
            shape = list(logits.shape)
            expected = "[3, 1]" if task == "score" else "[3, labels]"
            fits = len(shape) == 2 and shape[0] == 3 and (shape[1] == 1 if task == "score" else shape[1] > 0)
            assert fits, f"{text}: pooled_logits gives {shape} for 3 vectors, wanted {expected}"


def check_cuts(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check that two devices, or three where the heads cannot be divided among two, give the logits of one, and that
    each holds its part of the weights. A model that refuses to be cut with a UsageError is left out.
    """
    sizes = (2, 3)
    builds = {size: partial(empty_model, card, config, max_tokens=LENGTH, parallel=Parallel(0, size)) for size in sizes}
    with claim(f"{label(card)} on several devices"):
        fitting = [size for size, build in builds.items() if refusal_message(build, UsageError) is None]
    if not fitting:
        return
    size = fitting[0]
    text = f"{label(card)} on {size} devices"
    _check_shares(card, config, size, text)
    tokens = _prompt(card, config)
    required, every = random_checkpoint(card, config), random_checkpoint(card, config, optional=True)
    for tensors in [required] if required.keys() == every.keys() else [required, every]:

        def run(parallel: Parallel | None = None, tensors: Mapping[str, Tensor] = tensors) -> Tensor:
            model, ctx = build_model(card, config, tensors, max_tokens=LENGTH, parallel=parallel)
            out = run_tokens(model, ctx, tokens)
            labels = {"classify", "score"} & set(card.tasks) and not isinstance(model, CausalLM)
            return model.pooled_logits(out) if labels else out

        whole = run()
        with claim(text):
            ranks = run_ranks(size, run)
        assert_close(ranks[0], whole, tolerance(torch.float32, 400), f"{text}: its outputs")
        for other in ranks[1:]:
            assert torch.equal(other, ranks[0]), f"{text}: they do not all get the same outputs"


def _check_shares(card: ModelCard, config: Mapping[str, Any], size: int, text: str) -> None:
    """Check that most of the weights are divided: a layer that every rank has computes the right thing, too."""
    _, ctx = empty_model(card, config, max_tokens=LENGTH, parallel=Parallel(0, size))
    total = sum(prod(layer.parts[name]) for name, layer in ctx.layers.items())
    whole = {
        name: prod(layer.parts[name])
        for name, layer in ctx.layers.items()
        if layer.local_parts().get(name) == layer.parts[name] and layer.kind != "experts"
    }
    assert 2 * sum(whole.values()) <= total, (
        f"{text}: each holds {sum(whole.values()) / total:.0%} of the weights whole; say how these layers are cut: "
        f"{join_names(list(whole))}"
    )


def check_tensors(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check that a checkpoint with a missing, unexpected or misshapen tensor is refused, with the tensor's name."""
    _, ctx = empty_model(card, config, max_tokens=LENGTH)
    ties = parse_config(card, config).tie_word_embeddings
    for name, layer in ctx.layers.items():
        borrows = isinstance(layer, Head) and layer.tied is not None
        assert ties or not borrows, f"{label(card)}: {name} borrows the embedding although tie_word_embeddings is false"
    tensors = random_checkpoint(card, config)
    lazy = {t.name: t for t in lazy_tensors(tensors)}

    def refused(changed: Mapping[str, Any], name: str, what: str) -> None:
        text = refusal_message(
            partial(build_model, card, config, list(changed.values()), max_tokens=LENGTH), CheckpointError
        )
        assert text is not None, f"{label(card)}: {what} is not refused"
        # Lists in messages are cut short, but never a list of one.
        assert name in text, f"{label(card)}: {what} is refused without its name: {text}"

    for name, tensor in lazy.items():
        refused({k: v for k, v in lazy.items() if k != name}, name, f"a checkpoint without {name}")
        wrong = (tensor.shape[0] + 1, *tensor.shape[1:])
        changed = replace(tensor, shape=wrong, read=partial(torch.zeros, wrong))
        refused({**lazy, name: changed}, name, f"a checkpoint whose {name} is {list(wrong)}")
    extra = "no.model.has.this.weight"
    refused({**lazy, extra: replace(next(iter(lazy.values())), name=extra)}, extra, f"a checkpoint with {extra}")


def check_forms(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check that a checkpoint with weights stored together gives the logits of one in which each is on its own."""
    _, ctx = empty_model(card, config, max_tokens=LENGTH)
    apart, tokens = random_checkpoint(card, config), _prompt(card, config)
    forms: list[dict[str, Tensor]] = []
    names = [name for name, stored in ctx.together.items() if not stored.required]
    while names:
        form, left = apart, []
        for name in names:
            there = all(f"{part}.weight" in form for group in ctx.together[name].groups for part in group)
            form = store_together(ctx, name, form) if there else form
            left += [] if there else [name]
        assert len(left) < len(names), f"{label(card)}: no checkpoint has all parts of {', '.join(left)}"
        forms.append(form)
        names = left
    expected = _logits(card, config, apart, "float32", tokens) if forms else None
    for form in forms:
        text = f"{label(card)}: a checkpoint with {', '.join(sorted(form.keys() - apart.keys())[:3])}"
        with claim(text):
            found = _logits(card, config, form, "float32", tokens)
        assert expected is not None
        assert_close(
            found.flatten(), expected.flatten(), tolerance(torch.float32), f"{text}, and each weight on its own"
        )


def check_unclaimed_dtypes(card: ModelCard, config: Mapping[str, Any]) -> None:
    """Check that ``--dtype`` with an unclaimed dtype is refused."""
    platform = PlatformCard(name="any", device="cpu", target="any:any", dtypes=EVERY_DTYPE)
    parsed = parse_config(card, config)
    for dtype in set(EVERY_DTYPE) - set(card.dtypes):
        options = PlanOptions(dtype=dtype)
        text = f"{label(card)} does not claim {dtype}"
        assert_refused(partial(find_dtype, options, parsed, card, platform), text, dtype)

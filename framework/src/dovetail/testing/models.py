"""Conformance tests of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
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
    ModelConfig,
    PlatformCard,
    PluginError,
    UsageError,
)
from dovetail.api.text import join_names
from dovetail.kernel.config_facts import attention_requirements
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.resolve import find_dtype
from dovetail.nn import CausalLM, Context, Head, Parallel, PoolingModel
from dovetail.nn.checked_parts import checked_rename
from dovetail.nn.loading import WeightReader
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.harness import (
    build_model,
    dense_choices,
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
from dovetail.testing.resolution import assert_refused, claim, part_of, refusal_message
from dovetail.testing.routing import Choice, RoutingRecorder
from dovetail.testing.unused import check_all_is_used

LENGTH = 37
EVERY_DTYPE: tuple[DType, ...] = ("float64", "float32", "bfloat16", "float16")


class Case:
    """A card with one of its configurations. What several checks need is made once: they change none of it."""

    def __init__(self, card: ModelCard, config: Mapping[str, Any]) -> None:
        self.card = card
        self.config = config
        self.routing = RoutingRecorder()
        self.choices: tuple[Choice, ...] = ()
        """What the routers chose for :attr:`logits`, once those are computed."""

    @cached_property
    def parsed(self) -> ModelConfig:
        with claim(f"{label(self.card)}: its configuration accepts {dict(self.config)}"):
            return parse_config(self.card, self.config)

    @cached_property
    def requirements(self) -> tuple[AttentionRequirement, ...]:
        with claim(f"{label(self.card)}: its configuration accepts {dict(self.config)}"):
            return attention_requirements(self.parsed, part_of(self.card))

    @cached_property
    def empty(self) -> tuple[PoolingModel, Context]:
        """The model without weights, for ``LENGTH`` tokens."""
        return empty_model(self.card, self.config, max_tokens=LENGTH)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """A random checkpoint without what may be left out."""
        return random_checkpoint(self.card, self.config)

    @cached_property
    def built(self) -> tuple[PoolingModel, Context]:
        """The model with :attr:`tensors` in float32."""
        return build_model(self.card, self.config, self.tensors, max_tokens=LENGTH, ops=self.routing.ops)

    def prompt(self, seed: int = 0) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        found: list[int] = torch.randint(self.parsed.vocab_size, (LENGTH,), generator=generator).tolist()
        return found

    @cached_property
    def logits(self) -> Tensor:
        """Of the prompt, in float32: ``[T, V]``, or hidden states ``[T, C]`` of a model without a head."""
        before = len(self.routing.choices)
        logits = self.run(*self.built)
        self.choices = tuple(self.routing.choices[before:])
        return logits

    def run(self, model: PoolingModel, ctx: Context) -> Tensor:
        """The prompt's logits of a model that was built from this card and configuration."""
        logits = run_tokens(model, ctx, self.prompt())
        columns = self.parsed.vocab_size if isinstance(model, CausalLM) else self.parsed.hidden_size
        assert tuple(logits.shape) == (LENGTH, columns), (
            f"its outputs are {list(logits.shape)}, wanted {[LENGTH, columns]}"
        )
        return logits


def check_model(card: ModelCard, *configs: Mapping[str, Any], positions: Positions = "all") -> None:
    """Check every claim of a model's card with tiny configurations and random weights.

    Checks that each claimed architecture's name and each claimed dtype builds and runs; that a prompt gives the same
    logits whole, in chunks, token by token, and in a batch with others; that the model's own code reads no tensor on the
    host; that outputs depend on every layer and tensor that checkpoints must have; that layers know the positions of
    tokens; that they require the attention that the configuration announces, and
    that the configurations together require every claimed feature; that layers are of the kinds that the card lists; that
    a checkpoint gives the same logits in every form in which its weights may be stored together; that tensors which are
    missing, unexpected or misshapen are refused by name; that there is a head for each claimed task; that two or three
    devices share the weights and give the same logits; and that a dtype which is not claimed is refused by resolution.

    A rounded router may choose another expert than float32's, which is no fault. So the logits in other dtypes are those
    with the experts that ``ctx.ops.route`` chose in float32, and the router's own logits must be close.

    Args:
        configs: as in ``config.json``, small; together they use every claimed feature of attention and kind of layer.
        positions: the attention layers whose queries and keys depend on their token's position, by a rotary embedding or
            otherwise, or whose scores do by ALiBi: ``all``; ``some``, as in models that have layers without; or ``none``.

    Raises:
        AssertionError: names the claim that failed.
    """
    assert configs, f"{label(card)}: give at least one configuration"
    cases = [Case(card, config) for config in configs]
    asked = {feature for case in cases for requirement in case.requirements for feature in requirement.features}
    assert asked >= set(card.attention), (
        f"{label(card)} claims {', '.join(sorted(set(card.attention) - asked))} attention, but no configuration given here asks for it"
    )
    check_layer_kinds(card, cases)
    for number, case in enumerate(cases, 1):
        try:
            check_architectures(case)
            check_attention_requirements(case)
            check_dtypes(case)
            check_schedules(case)
            with claim(f"{label(card)}: positions of tokens"):
                check_positions(card, case.config, positions, case.tensors)
            check_tensors(case)
            check_forms(case)
            check_tasks(case)
            with claim(f"{label(card)}: what its layers compute"):
                if card.processor is None:  # what only images need, check_images looks at
                    check_all_is_used(card, case.config)
            check_cuts(case)
        except HostReadError as read:
            raise AssertionError(f"{label(card)}: {read}") from None
        except PluginError as error:  # of the checks that the engine makes
            raise AssertionError(f"{label(card)}: {error.problem}") from error
        except AssertionError as failure:
            own = [f"{key} {value!r}" for key, value in case.config.items() if configs[0].get(key, ...) != value]
            which = f"configuration {number} of {len(cases)}{', with ' if own else ''}{join_names(own)}"
            raise AssertionError(f"{failure} ({which})") from failure.__cause__
    check_unclaimed_dtypes(cases[0])


def check_architectures(case: Case) -> None:
    """Check that every claimed architecture resolves to a model."""
    for architecture in case.card.architectures:
        with claim(f"{label(case.card)} claims the architecture {architecture}"):
            if case.parsed.architectures == (architecture,):
                _ = case.empty
            else:
                empty_model(case.card, {**case.config, "architectures": [architecture]}, max_tokens=LENGTH)


def check_layer_kinds(card: ModelCard, cases: Sequence[Case]) -> None:
    """Check that every layer is of a kind that the card lists, and that the configurations use all of them."""
    used: set[str] = set()
    for case in cases:
        _, ctx = case.empty
        for name, layer in ctx.layers.items():
            assert layer.kind in card.layer_kinds, (
                f"{label(card)}: {name} is of the kind {layer.kind}, which its card does not list in layer_kinds"
            )
            used.add(layer.kind)
    unused = sorted(set(card.layer_kinds) - used - {"linear", "head", "embedding"})  # the default names all of these
    assert not unused, (
        f"{label(card)} lists layers of the kind {', '.join(unused)}, but no configuration given here has them"
    )


def check_attention_requirements(case: Case) -> None:
    """Check that the configuration announces what the layers require, and that the card claims it."""
    card, needs = case.card, case.requirements
    _, ctx = case.empty
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


def check_dtypes(case: Case) -> None:
    """Check that every claimed dtype gives finite logits, close to float32's within rounding. Where a router's rounded
    scores would choose other experts than float32's, those of float32 are used; the router's logits must be close.
    """
    card, exact = case.card, case.logits
    for dtype in card.dtypes:
        text = f"{label(card)} claims {dtype}"
        recorder = RoutingRecorder(case.choices)
        with claim(text):
            logits = case.run(
                *build_model(card, case.config, case.tensors, dtype=dtype, max_tokens=LENGTH, ops=recorder.ops)
            )
        assert torch.isfinite(logits).all(), f"{text}: its logits are not all finite"
        limit = tolerance(dtype_of(dtype), 32)
        recorder.check_logits(limit, text)
        # One norm over all logits: a single row may be unlucky in 8 bits of mantissa.
        assert_close(logits.flatten(), exact.flatten(), limit, f"{text}: its logits")


def check_schedules(case: Case) -> None:
    """Check that logits are the same for a whole prompt, in chunks, token by token, and with other requests. A model
    whose tokens see the whole prompt is only given whole ones.
    """
    card, whole = case.card, case.logits
    model, ctx = case.built
    tokens, other, third = map(case.prompt, range(3))
    limit = tolerance(torch.float32, 400)
    chunked: dict[str, int | list[int]] = {"chunks of 8": 8, "uneven chunks": [1, 20, 1, 15], "chunks of one token": 1}
    schedule: list[dict[int, list[int]]] = [
        {1: other[:5], 0: tokens[:19]},
        {0: tokens[19:20], 2: third[:30], 1: other[5:]},
        {2: third[30:], 0: tokens[20:]},
    ]
    if any("bidirectional" in requirement.features for requirement in case.requirements):
        chunked, schedule = {}, [{1: other, 0: tokens, 2: third}]
    for name, chunks in chunked.items():
        assert_close(
            run_tokens(model, ctx, tokens, chunks), whole, limit, f"{label(card)}: a prompt in {name} and whole"
        )
    together = run_batch(model, ctx, schedule)
    alone = {0: whole, 1: run_tokens(model, ctx, other), 2: run_tokens(model, ctx, third)}
    for request, logits in together.items():
        assert_close(logits, alone[request], limit, f"{label(card)}: a prompt in a batch and alone")


def check_tasks(case: Case) -> None:
    """Check the heads: ``generate`` requires logits, ``classify`` labels, and ``score`` one score."""
    card = case.card
    model, ctx = case.built
    for task in card.tasks:
        if task == "score" and "classify" in card.tasks and case.parsed.num_labels > 1:
            continue  # such a configuration is served for labels alone
        text = f"{label(card)} claims the task {task}"
        if task == "generate":
            assert isinstance(model, CausalLM), f"{text}, and its class is not built on CausalLM"
        elif task != "embed":
            pooled = torch.randn(3, case.parsed.hidden_size, dtype=ctx.dtype)
            with claim(text), torch.inference_mode(), host_reads_refused(ctx):
                logits = model.pooled_logits(pooled)
            shape = list(logits.shape)
            expected = "[3, 1]" if task == "score" else "[3, labels]"
            fits = len(shape) == 2 and shape[0] == 3 and (shape[1] == 1 if task == "score" else shape[1] > 0)
            assert fits, f"{text}: pooled_logits gives {shape} for 3 vectors, wanted {expected}"


def check_cuts(case: Case) -> None:
    """Check that two devices, or three where the heads cannot be divided among two, give the logits of one, and that
    each holds its part of the weights. A model that refuses to be cut with a UsageError is left out.
    """
    card, config = case.card, case.config
    sizes = (2, 3)
    builds = {size: partial(empty_model, card, config, max_tokens=LENGTH, parallel=Parallel(0, size)) for size in sizes}
    with claim(f"{label(card)} on several devices"):
        size = next((size for size, build in builds.items() if refusal_message(build, UsageError) is None), None)
    if size is None:
        return
    text = f"{label(card)} on {size} devices"
    _check_shares(card, config, size, text)
    tokens, required = case.prompt(), case.tensors
    every = random_checkpoint(card, config, optional=True)
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


def check_tensors(case: Case) -> None:
    """Check that a checkpoint with a missing, unexpected or misshapen tensor is refused, with the tensor's name."""
    card = case.card
    model, ctx = case.empty
    ties = case.parsed.tie_word_embeddings
    for name, layer in ctx.layers.items():
        borrows = isinstance(layer, Head) and layer.tied is not None
        assert ties or not borrows, f"{label(card)}: {name} borrows the embedding although tie_word_embeddings is false"
    lazy = {t.name: t for t in lazy_tensors(case.tensors)}

    choices = dense_choices()

    def refused(changed: Mapping[str, Any], name: str, what: str) -> None:
        # What is refused is refused before the first tensor is read, so the model stays as empty as it is.
        reader = WeightReader(ctx, choices, dict(case.config), rename=checked_rename(part_of(card), model.rename))
        text = refusal_message(partial(reader.load, list(changed.values())), CheckpointError)
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


def check_forms(case: Case) -> None:
    """Check that a checkpoint with weights stored together gives the logits of one in which each is on its own."""
    card, apart = case.card, case.tensors
    _, ctx = case.empty
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
    for form in forms:
        text = f"{label(card)}: a checkpoint with {', '.join(sorted(form.keys() - apart.keys())[:3])}"
        with claim(text):
            found = case.run(*build_model(card, case.config, form, max_tokens=LENGTH))
        assert_close(
            found.flatten(), case.logits.flatten(), tolerance(torch.float32), f"{text}, and each weight on its own"
        )


def check_unclaimed_dtypes(case: Case) -> None:
    """Check that ``--dtype`` with an unclaimed dtype is refused."""
    platform = PlatformCard(name="any", device="cpu", target="any:any", dtypes=EVERY_DTYPE)
    card = case.card
    for dtype in set(EVERY_DTYPE) - set(card.dtypes):
        options = PlanOptions(dtype=dtype)
        text = f"{label(card)} does not claim {dtype}"
        assert_refused(partial(find_dtype, options, case.parsed, card, platform), text, dtype)

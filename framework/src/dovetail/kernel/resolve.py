"""Resolves a model reference, options, the installed plugins and the machine's devices to a :class:`Plan`.

One function per decision, in the order in which they depend on each other. Every decision goes through :func:`choose`,
which records why a candidate was selected and why the others were not.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dovetail.api.cards import (
    AttentionCard,
    GrammarCard,
    ModelCard,
    PlatformCard,
    ReasoningParserCard,
    ToolParserCard,
)
from dovetail.api.checkpoint import Checkpoint
from dovetail.api.config import AttentionRequirement, ModelConfig
from dovetail.api.errors import ConfigError, PluginError, ResolutionError, UsageError
from dovetail.api.text import join_names, one_line
from dovetail.kernel.blame import Blamed
from dovetail.kernel.checkpoints import apply_overrides, find_checkpoint, find_model_config, find_source
from dovetail.kernel.choose import choose, join_numbers, run_probe, supports_device
from dovetail.kernel.config_facts import attention_requirements, context_lengths, pooling_type
from dovetail.kernel.discovery import import_part
from dovetail.kernel.interrupts import watch_interrupts
from dovetail.kernel.logits_processors import find_logits_processors
from dovetail.kernel.options import AUTO, PlanOptions
from dovetail.kernel.parsers import find_parsers
from dovetail.kernel.plan import Plan
from dovetail.kernel.plan_parts import Choice
from dovetail.kernel.registry import Offer, Registry
from dovetail.kernel.speculation import find_speculation
from dovetail.kernel.tasks import check_token_labels, find_pooling, find_tasks, find_token_score
from dovetail.kernel.validation import validate_config
from dovetail.kernel.weights import find_unread, find_weights

KV_ALIASES = {"fp8": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
"""Names of dtypes in ``--kv-cache-dtype``."""
NATIVE = "native"
"""Value of ``--model-impl``."""
NEAREST = 5
"""How many architectures are told where the wanted one is not offered."""


def resolve(options: PlanOptions, registry: Registry) -> Plan:
    """Decide everything, or raise a :class:`~dovetail.api.DovetailError` that says what does not fit."""
    with watch_interrupts():
        return _resolve(options, registry)


def _resolve(options: PlanOptions, registry: Registry) -> Plan:
    warnings: list[str] = []
    source, found = find_source(options, registry, warnings)
    loader, checkpoint = find_checkpoint(found.path, options, registry, warnings)
    generation_config = {**found.generation_config, **checkpoint.generation_config}
    checkpoint = checkpoint.model_copy(update={"generation_config": generation_config})
    config, naming_offer = find_model_config(checkpoint, options, registry)
    config = apply_overrides(find_token_score(options, checkpoint, config), options.hf_overrides)
    model_offer, model, architecture = find_model(config, checkpoint, options, registry, naming_offer, warnings)
    card = model_offer.card
    config_class: type[ModelConfig] = import_part(model_offer, card.config)
    parsed = validate_config(config_class, config, checkpoint.config_file or checkpoint.path, model_offer)
    check_layers(parsed, checkpoint)
    check_token_labels(parsed, card)
    requirements = find_attention_requirements(parsed, model_offer)
    can_generate = not _are_bidirectional(requirements)
    tasks, tasks_reason = find_tasks(options, card, checkpoint, can_generate=can_generate, labels=parsed.num_labels)
    pooling = find_pooling(options, card, checkpoint, config, tasks, pooling_type(parsed, model_offer))
    platform_offer, platform = find_platform(options, registry, warnings)
    dtype = find_dtype(options, parsed, card, platform_offer.card)
    kv_dtype = (
        dtype if options.kv_cache_dtype == AUTO else KV_ALIASES.get(options.kv_cache_dtype, options.kv_cache_dtype)
    )
    device = platform_offer.card.device
    attention = find_attention(options, requirements, device, dtype, kv_dtype, registry, warnings)
    weights = find_weights(checkpoint, config, options, device, dtype, registry, warnings, card.layer_kinds)
    grammar_offer, grammar = find_grammar(options, registry, warnings)
    speculation = find_speculation(options, parsed, model_offer, registry, warnings, resolve)
    naming = card.naming[checkpoint.naming].target if checkpoint.naming else None
    return Plan(
        model=(options.model or "").rstrip("/") or Path(found.path).stem,
        checkpoint=checkpoint,
        config=config,
        architecture=architecture,
        tasks=tasks,
        tasks_reason=tasks_reason,
        pooling=pooling,
        config_class=card.config,
        naming=naming,
        processor=card.processor,
        dtype=dtype,
        kv_dtype=kv_dtype,
        max_model_len=find_max_model_len(options, parsed, model_offer, warnings),
        source=source,
        loader=loader,
        model_part=model,
        platform=platform,
        attention=attention,
        attention_requirements=requirements,
        weights=weights,
        unread_types=find_unread(checkpoint, weights, registry),
        grammar=grammar,
        grammar_validate=grammar_offer.card.validate_source if grammar_offer else None,
        grammar_kinds=grammar_offer.card.kinds if grammar_offer else (),
        tool_parsers=find_parsers(ToolParserCard, "parser of tool calls", options.tool_call_parser, registry, warnings),
        reasoning_parsers=find_parsers(
            ReasoningParserCard, "parser of reasoning", options.reasoning_parser, registry, warnings
        ),
        logits_processors=find_logits_processors(options, registry),
        **speculation,
        warnings=tuple(warnings),
    )


def find_model(
    config: dict[str, Any],
    checkpoint: Checkpoint,
    options: PlanOptions,
    registry: Registry,
    translator: Offer[ModelCard] | None,
    warnings: list[str],
) -> tuple[Offer[ModelCard], Choice, str]:
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(a, str) for a in named):
        raise ConfigError(
            f"architectures is {named!r}, wanted a list of names",
            'for example --hf-overrides \'{"architectures": ["NameForCausalLM"]}\'',
        )
    if not named:
        raise ConfigError(
            f"{checkpoint.config_file or checkpoint.path} names no architectures",
            'name one with --hf-overrides \'{"architectures": ["…"]}\' (dovetail plugins list shows what is installed)',
        )
    cards = [offer.card for offer in registry.offers(ModelCard)]
    offered = {a for card in cards for a in card.architectures if "*" not in a}
    architecture = next((a for a in named if a in offered), named[0])
    if len(offered) > NEAREST and not any(_unserved(card, architecture, config) is None for card in cards):
        near = difflib.get_close_matches(architecture, sorted(offered), NEAREST, cutoff=0.0)
        raise ResolutionError(
            f"wanted a model plugin for the architecture {one_line(architecture)}, found nothing that fits "
            f"({len(offered)} architectures, the nearest {', '.join(near)}"
            + "".join(
                f"; {card.name}: {_unserved(card, architecture, config)}" for card in cards if _has_patterns(card)
            )
            + ")",
            registry.explain_missing(ModelCard.kind)
            or "install a plugin that covers it (dovetail plugins list shows what is there)",
        )

    def objection(card: ModelCard) -> str | None:
        if reason := _unserved(card, architecture, config):
            return reason
        if options.model_impl == NATIVE and architecture not in card.architectures:
            return f"does not name the architecture, and --model-impl {NATIVE} was asked for"
        if checkpoint.naming and checkpoint.naming not in card.naming:
            return f"cannot read tensors named as in {checkpoint.naming}"
        if (
            translator
            and checkpoint.naming
            and checkpoint.architecture not in card.naming[checkpoint.naming].architectures
        ):
            return f"cannot read the {checkpoint.naming} architecture {checkpoint.architecture!r}"
        if translator and architecture in translator.card.architectures and card != translator.card:
            return f"{translator.name} reads this {checkpoint.naming} metadata"
        return None

    offer, choice = choose(
        "model",
        ModelCard,
        registry,
        objection,
        explicit=None if options.model_impl == NATIVE else options.model_impl,
        wanted=f"a model plugin for the architecture {architecture}",
        warnings=warnings,
    )
    reason = f"offers {architecture}; {choice.reason}"
    return offer, choice.model_copy(update={"reason": reason}), architecture


def _has_patterns(card: ModelCard) -> bool:
    return any("*" in name for name in card.architectures)


def _unserved(card: ModelCard, architecture: str, config: dict[str, Any]) -> str | None:
    """Why a card does not serve an architecture, or None."""
    if architecture in card.architectures:
        return None
    if any(fnmatchcase(architecture, name) for name in card.architectures if "*" in name):
        return run_probe(card.accepts, architecture, config)
    return f"offers {join_names(card.architectures, 4)}"


def check_layers(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Compare the number of layers with the number of tensors. A model is built before its tensors are compared with
    the files one by one, and every layer takes time.

    Raises:
        ConfigError: there are more layers than tensors.
    """
    count = sum(checkpoint.tensor_types.values())
    if checkpoint.files and config.num_hidden_layers > count:
        raise ConfigError(
            f"{checkpoint.config_file or checkpoint.path} says num_hidden_layers {config.num_hidden_layers}, and the "
            f"files of {checkpoint.path} hold {count} tensors in all, wanted at least one for each layer",
            "the configuration does not belong to these files, or files are missing",
        )


def find_platform(options: PlanOptions, registry: Registry, warnings: list[str]) -> tuple[Offer[PlatformCard], Choice]:
    def objection(card: PlatformCard) -> str | None:
        return run_probe(card.probe)

    return choose(
        "platform", PlatformCard, registry, objection,
        explicit=options.device, wanted="a platform to run on", warnings=warnings,
    )  # fmt: skip


def find_dtype(options: PlanOptions, config: ModelConfig, model: ModelCard, platform: PlatformCard) -> str:
    def objection(dtype: str) -> str | None:
        for who, dtypes in (
            (f"the model {model.name}", model.dtypes),
            (f"the platform {platform.name}", platform.dtypes),
        ):
            if dtype not in dtypes:
                return f"{who} claims {', '.join(dtypes)}"
        return None

    aliases = {"half": "float16", "float": "float32"}
    if options.dtype != AUTO:
        dtype = aliases.get(options.dtype, options.dtype)
        if reason := objection(dtype):
            raise ResolutionError(
                f"wanted the dtype {dtype}, but {reason}", "choose one of those with --dtype, or leave it to auto"
            )
        return dtype
    for dtype in (config.dtype or "", platform.default_dtype, *platform.dtypes):
        if dtype and objection(dtype) is None:
            return dtype
    raise ResolutionError(
        f"the model {model.name} computes in {', '.join(model.dtypes)}, the platform {platform.name} in {', '.join(platform.dtypes)}",
        "choose another platform with --device",
    )


def find_attention_requirements(config: ModelConfig, offer: Offer[ModelCard]) -> tuple[AttentionRequirement, ...]:
    """What the layers of a configuration ask of the attention backend.

    Raises:
        PluginError: the model's card does not list it, or only some of the layers keep a cache.
    """
    needs, model = attention_requirements(config, offer), offer.card
    for requirement in needs:
        if unlisted := sorted(requirement.features - set(model.attention)):
            raise PluginError(
                f"the model {model.name} asks for {_describe_features(unlisted)}, and its card lists {_describe_features(model.attention)}",
                "update the plugin that offers it",
            )
    if _are_bidirectional(needs) and not all("bidirectional" in n.features for n in needs):
        raise PluginError(
            f"the model {model.name} asks for {' and '.join(_describe_features(n.features) for n in needs)}; a model is "
            "either bidirectional in all of its layers, or in none",
            "update the plugin that offers it",
        )
    return needs


def _are_bidirectional(needs: Iterable[AttentionRequirement]) -> bool:
    return any("bidirectional" in requirement.features for requirement in needs)


def find_attention(
    options: PlanOptions,
    needs: tuple[AttentionRequirement, ...],
    device: str,
    dtype: str,
    kv_dtype: str,
    registry: Registry,
    warnings: list[str],
) -> Choice:
    def objection(card: AttentionCard) -> str | None:
        if not supports_device(card.devices, device):
            return f"runs on {', '.join(card.devices)}, not on {device}"
        if dtype not in card.dtypes:
            return f"takes {', '.join(card.dtypes)}, not {dtype}"
        if kv_dtype not in (dtype, *card.kv_dtypes):
            return f"keeps the KV cache in {', '.join((dtype, *card.kv_dtypes))}, not in {kv_dtype}"
        if card.block_sizes is not None and options.block_size not in card.block_sizes:
            return f"takes blocks of {join_numbers(card.block_sizes)} tokens, not {options.block_size}"
        for requirement in needs:
            if fault := _explain_unmet(card, requirement):
                return fault
        return run_probe(card.probe)

    wanted = [f"{_describe_features(n.features)} with heads of {_describe_size(_size(n))}" for n in needs]
    if kv_dtype != dtype:
        wanted.append(f"KV cache in {kv_dtype}")
    _, choice = choose(
        "attention", AttentionCard, registry, objection,
        explicit=options.attention_backend, wanted=f"attention on {device} in {dtype} ({', '.join(wanted)})", warnings=warnings,
    )  # fmt: skip
    return choice


def _explain_unmet(card: AttentionCard, requirement: AttentionRequirement) -> str | None:
    if missing := requirement.features - set(card.features):
        return f"does {_describe_features(card.features)}, not {', '.join(sorted(missing))}"
    for together in card.exclusive:
        if requirement.features >= set(together):
            return f"does not do {' and '.join(together)} in one layer"
    if card.head_dims is not None and _size(requirement) not in card.head_dims:
        known = ", ".join(map(_describe_size, card.head_dims))
        return f"takes heads of {known}, not {_describe_size(_size(requirement))}"
    return None


def _size(requirement: AttentionRequirement) -> int | tuple[int, int]:
    """A head's size as cards claim it."""
    key, value = requirement.head_dim, requirement.values
    return key if key == value else (key, value)


def _describe_size(size: int | tuple[int, int]) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]} with values of {size[1]}"


def _describe_features(features: Iterable[str]) -> str:
    return f"{', '.join(sorted(features)) or 'plain'} attention"


def find_grammar(
    options: PlanOptions, registry: Registry, warnings: list[str]
) -> tuple[Offer[GrammarCard] | None, Choice | None]:
    """The backend of structured output. It is only an error if there is none when the user named one, because all
    other requests can be served without it.
    """
    if options.structured_outputs_backend == AUTO and not registry.offers(GrammarCard):
        return None, None
    return choose(
        "grammar", GrammarCard, registry, lambda card: None,
        explicit=options.structured_outputs_backend, wanted="a backend of structured output", warnings=warnings,
    )  # fmt: skip


def find_max_model_len(options: PlanOptions, config: ModelConfig, part: Blamed, warnings: list[str]) -> int:
    usual, longest = context_lengths(config, part)
    if options.max_model_len is None:
        if usual < 2:
            raise ConfigError(
                f"the configuration has a context of {usual} token, wanted at least 2: a prompt, and what follows it",
                "correct max_position_embeddings, for example with --hf-overrides",
            )
        if longest > usual:
            warnings.append(
                f"sequences end at {usual} tokens, as max_position_embeddings says; the model's RoPE scaling may have been made "
                f"for {longest}, which --max-model-len {longest} serves"
            )
        return usual
    if options.max_model_len > longest:
        scaled = " and its RoPE scaling were" if longest > usual else " was"
        raise UsageError(
            f"--max-model-len {options.max_model_len} exceeds the {longest} tokens that the model{scaled} made for",
            f"give at most --max-model-len {longest}, or raise max_position_embeddings (and the RoPE scaling) with --hf-overrides",
        )
    return options.max_model_len

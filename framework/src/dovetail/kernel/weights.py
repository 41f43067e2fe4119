"""Selects, for each stored type of a checkpoint, the format that reads it, and the kernels for each kind of layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from dovetail.api.cards import LayerKind, QuantFormatCard, QuantKernelCard
from dovetail.api.checkpoint import Checkpoint
from dovetail.api.errors import DovetailError, PluginError, ResolutionError
from dovetail.api.text import join_names, quote_foreign
from dovetail.kernel.blame import blame, check_class
from dovetail.kernel.choose import choose, make_part, run_probe, supports_device
from dovetail.kernel.discovery import import_part
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan_parts import Choice, Part, RejectedCandidate, WeightPlan
from dovetail.kernel.registry import Offer, Registry
from dovetail.kernel.validation import describe_validation_errors
from dovetail.kernel.waiting import wait_for

OWN_FORMATS = "the formats of this project are called dovetail-quant-NAME"
"""A file may name any method, so what it names is never called a distribution to install."""
WEIGHT_KINDS: tuple[LayerKind, ...] = ("linear", "head", "embedding")


def find_weights(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    options: PlanOptions,
    device: str,
    dtype: str,
    registry: Registry,
    warnings: list[str],
    kinds: Sequence[LayerKind] = WEIGHT_KINDS,
) -> tuple[WeightPlan, ...]:
    """For each stored type the formats that read it, best first, and for each kind of layer the kernels that multiply
    it. Which of the formats reads a weight is decided by the tensors that it is made of, when it is loaded.

    Args:
        kinds: of the model's layers.
    """
    quantization = config.get("quantization_config") or {}
    method = quantization.get("quant_method")
    offers = registry.offers(QuantFormatCard)
    readers = [o.name for o in offers if method in o.card.methods]
    if method is not None and not readers:
        known = sorted({m for o in offers for m in o.card.methods})
        raise ResolutionError(
            f"wanted a format for weights quantized by {method!r}, found {', '.join(known) or 'none'}",
            registry.explain_missing(QuantFormatCard.kind)
            or f"install a plugin that reads {quote_foreign(method, 40)}; {OWN_FORMATS}",
        )
    refused: dict[str, str] = {}
    broken: dict[str, PluginError] = {}
    for offer in offers:
        if not _is_for(offer.card, method):
            continue
        try:
            if reason := _refuse_config(offer, quantization):
                refused[offer.name] = reason
        except PluginError as error:
            broken[offer.name] = error
            refused[offer.name] = f"it is broken: {error.problem}"
    # Where it was asked for, or is why there is no other, it is told, and not what seems wrong with the files.
    needed = [options.quantization, *(readers if refused.keys() >= set(readers) else ())]
    if fault := next((broken[name] for name in needed if name in broken), None):
        raise fault
    if method is not None and refused.keys() >= set(readers):
        raise ResolutionError(
            f"wanted a format for weights quantized by {method!r}, found none that fits "
            f"({'; '.join(f'{name}: {refused[name]}' for name in readers)})",
            f"correct quantization_config in config.json if it is wrong; otherwise look for a newer version of the format, or for another "
            f"plugin that reads {quote_foreign(method, 40)}",
        )
    asked = _requested_format(options.quantization, registry)
    plans: list[WeightPlan] = []
    formats: set[str] = set()
    for type_, count in sorted(checkpoint.tensor_types.items(), key=lambda item: (_counts(item[0]), item[0])):

        def reads(card: QuantFormatCard, type_: str = type_) -> str | None:
            if type_ not in card.types:
                return f"reads {join_names(sorted(card.types), 4)}"
            if not _is_for(card, method):
                return f"reads checkpoints quantized by {', '.join(card.methods)}, not {method or 'none'}"
            return refused.get(card.name)

        unread = all(reads(o.card) for o in offers)
        # Masks and position ids, and what accompanies quantized weights: a weight of this type is refused when it is loaded.
        if unread and ((plans and _counts(type_)) or readers):
            continue
        if unread and (
            fault := next((broken[o.name] for o in offers if o.name in broken and type_ in o.card.types), None)
        ):
            raise fault
        wanted = f"a format that reads {count} tensors of type {type_!r} in {checkpoint.path}"
        # Norms, and what was left alone, have other types than the one that was asked for.
        explicit = asked.name if asked and reads(asked.card) is None else None
        format_offer, format_choice = choose(
            "format", QuantFormatCard, registry, reads, explicit=explicit, wanted=wanted, warnings=warnings
        )
        related = {o.name for o in offers if type_ in o.card.types and _is_for(o.card, method)}
        rejected = tuple(r.model_copy(update={"unrelated": r.name not in related}) for r in format_choice.rejected)
        others = [] if explicit else [o for o in offers if o != format_offer and reads(o.card) is None]
        for offer in (format_offer, *sorted(others, key=lambda o: (-o.card.rank, o.name))):
            formats.add(offer.name)
            part = make_part(offer)
            reason = format_choice.reason
            if offer is not format_offer:
                reason = (
                    f"rank {offer.card.rank}, for weights that are made of other tensors than {format_offer.name} reads"
                )
            choice = format_choice.model_copy(update={"part": part, "reason": reason, "rejected": rejected})
            plans += [
                _weight_plan(kind, type_, offer, choice, device, dtype, registry, warnings)
                for kind in kinds
                if kind in offer.card.kinds
            ]
    warnings += [
        str(broken[o.name]) for o in offers if o.name in broken and o.card.types.keys() & checkpoint.tensor_types
    ]
    if method is not None and not formats & set(readers):
        raise ResolutionError(
            f"wanted weights quantized by {method!r}, as the configuration says, found tensors of type "
            f"{', '.join(sorted(checkpoint.tensor_types))}, which {' and '.join(readers)} cannot read",
            "give the quantized checkpoint, or take quantization_config out of its config.json",
        )
    if asked and asked.name not in formats:
        raise ResolutionError(
            f"--quantization {asked.name} was asked for, but the checkpoint is read by {', '.join(sorted(formats))}",
            "leave --quantization out, or give a checkpoint in that format",
        )
    return tuple(plans)


def find_unread(
    checkpoint: Checkpoint, weights: Sequence[WeightPlan], registry: Registry
) -> dict[str, tuple[str, ...]]:
    """Stored type that no format of a Plan reads → the installed formats that would, if the configuration named their
    method. Such tensors may be those of weights, if files lack their ``quantization_config``.
    """
    read = {weight.type for weight in weights}
    found = {
        type_: tuple(offer.name for offer in registry.offers(QuantFormatCard) if type_ in offer.card.types)
        for type_ in checkpoint.tensor_types
        if type_ not in read
    }
    return {type_: names for type_, names in found.items() if names}


def _is_for(card: QuantFormatCard, method: str | None) -> bool:
    """Whether a format may read checkpoints quantized by a method. Formats without one also read what such checkpoints
    leave in plain tensors: norms, biases, some layers.
    """
    return not card.methods or method in card.methods


def _refuse_config(offer: Offer[QuantFormatCard], quantization: dict[str, Any]) -> str | None:
    """Why a format's own class refuses the checkpoint's ``quantization_config``; an empty one if there is none.

    Raises:
        PluginError: the class cannot be imported, is none of a configuration, or raises anything else than a refusal.
    """
    if (config := offer.card.config) is None:
        return None
    config_class = import_part(offer, config)
    check_class(offer, config, config_class, BaseModel)
    try:
        doing = f"to read the quantization_config with {config_class.__name__}"
        with wait_for(offer, "its check of quantization_config"), blame(offer, doing):
            return _validate(config_class, quantization)
    except PluginError:
        raise
    except DovetailError as error:
        return error.problem


def _validate(config_class: type[BaseModel], quantization: dict[str, Any]) -> str | None:
    try:
        config_class.model_validate(quantization)
    except ValidationError as error:
        return describe_validation_errors(error.errors())
    return None


def _counts(type_: str) -> bool:
    """Whether tensors of a type hold integers or booleans. They are not weights unless a format packs weights that
    way.
    """
    return type_.startswith(("int", "uint", "bool"))


def _requested_format(name: str | None, registry: Registry) -> Offer[QuantFormatCard] | None:
    if name is None:
        return None
    found = registry.get(QuantFormatCard, name)
    if found is None:
        known = ", ".join(o.name for o in registry.offers(QuantFormatCard))
        raise ResolutionError(
            f"--quantization {name} was asked for, found the formats {known or 'none'}",
            registry.explain_missing(QuantFormatCard.kind)
            or f"install a plugin that offers the format {quote_foreign(name, 40)}; {OWN_FORMATS}",
        )
    return found


def _weight_plan(
    kind: LayerKind,
    type_: str,
    format_offer: Offer[QuantFormatCard],
    format_choice: Choice,
    device: str,
    dtype: str,
    registry: Registry,
    warnings: list[str],
) -> WeightPlan:
    packings = {type_, *format_offer.card.types[type_], "*"}
    kernels: list[Part] = []
    rejected: list[RejectedCandidate] = []
    for offer in registry.offers(QuantKernelCard):
        card = offer.card
        reason, unrelated = None, False
        if not packings & set(card.packings):
            reason, unrelated = f"takes {', '.join(card.packings)}", True
        elif not supports_device(card.devices, device):
            reason = f"runs on {', '.join(card.devices)}"
        elif dtype not in card.dtypes:
            reason = f"takes activations in {', '.join(card.dtypes)}, not {dtype}"
        elif kind not in card.kinds:
            reason, unrelated = f"serves {', '.join(card.kinds)} layers", True
        else:
            with wait_for(offer, "its probe"):
                reason = run_probe(card.probe)
        if reason:
            rejected.append(
                RejectedCandidate(name=offer.name, distribution=offer.distribution, reason=reason, unrelated=unrelated)
            )
        else:
            kernels.append(make_part(offer))
    if not kernels:
        raise ResolutionError(
            f"wanted a kernel for {kind} layers of type {type_!r} on {device} in {dtype}, found none that fits "
            f"({'; '.join(f'{r.name}: {r.reason}' for r in rejected)})",
            registry.explain_missing(QuantKernelCard.kind) or "install a kernel plugin that covers it",
        )
    ties = [kernel for kernel in kernels[1:] if kernel.rank == kernels[0].rank]
    if ties:
        warning = (
            f"{' and '.join(map(str, (kernels[0], *ties)))} fit equally well; they are tried by name, "
            f"leave one out with --plugins to be sure (-kernel:{ties[0].distribution})"
        )
        if warning not in warnings:  # of another kind of layer, or another type
            warnings.append(warning)
    return WeightPlan(
        kind=kind,
        type=type_,
        format=format_choice,
        config=format_offer.card.config,
        kernels=tuple(kernels),
        rejected=tuple(rejected),
    )

"""From a model reference, options, what is installed and what the machine has, to a :class:`Plan`.

One function per decision, in the order in which they depend on each other. Every decision goes through :func:`choose`, so every
one of them records why its winner won and why the others did not.
"""

from __future__ import annotations

import copy
import fnmatch
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from dovetail.api.cards import (
    AttentionCard,
    Card,
    LayerKind,
    LoaderCard,
    ModelCard,
    PlatformCard,
    QuantFormatCard,
    QuantKernelCard,
    SourceCard,
)
from dovetail.api.checkpoint import HF_TOKENIZER, Checkpoint
from dovetail.api.config import AttentionNeed, ModelConfig
from dovetail.api.errors import (
    CheckpointError,
    ConfigError,
    DovetailError,
    PluginError,
    ResolutionError,
    UsageError,
)
from dovetail.kernel.discovery import import_dotted, one_line
from dovetail.kernel.plan import Choice, Part, Plan, Rejected, WeightPlan, read_config
from dovetail.kernel.registry import Offer, Registry

C = TypeVar("C", bound=Card)
Overrides = dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]

AUTO = "auto"
WEIGHT_KINDS: tuple[LayerKind, ...] = ("linear", "head", "embedding")
SIDE_FILES = ("*.json", "*.jinja", "tokenizer.model", "*.tiktoken", "*.txt")
"""What a hub download needs besides the weights."""


class PlanOptions(BaseModel):
    """The options that resolution reads. Names and meanings are those of the command line's flags."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = Field(
        default=None,
        description="a folder, a weight file or a hub repository (org/name); without it, the embedded default",
    )
    tokenizer: str | None = Field(
        default=None, description="take the tokenizer from this folder or file instead of the model's"
    )
    hf_config_path: str | None = Field(
        default=None, description="take config.json from this folder or file instead of the model's"
    )
    hf_overrides: Overrides = Field(
        default={},
        description="JSON object merged into config.json before anything is resolved; may name other architectures",
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub repository")
    download_dir: str | None = Field(default=None, description="where hub downloads are kept")
    load_format: str = Field(default=AUTO, description="the loader that reads the weights")
    dtype: str = Field(
        default=AUTO, description="dtype of activations; auto takes the checkpoint's, else the platform's"
    )
    quantization: str | None = Field(
        default=None,
        description="require this quantization format; the checkpoint must be in it already, nothing is converted",
    )
    device: str = Field(default=AUTO, description="the platform to run on; auto takes the best that is present")
    attention_backend: str = Field(default=AUTO, description="the attention backend")
    kv_cache_dtype: str = Field(default=AUTO, description="dtype of the KV cache; auto takes that of the activations")
    max_model_len: int | None = Field(
        default=None,
        ge=2,
        description="longest sequence in tokens (32k means 32,000 and 32K 32,768); auto takes what the model and memory allow",
    )
    block_size: int = Field(default=16, gt=0, description="tokens in a KV-cache block")


def resolve(options: PlanOptions, registry: Registry) -> Plan:
    """Decide everything, or raise a :class:`~dovetail.api.DovetailError` that says what does not fit."""
    warnings: list[str] = []
    source, path = find_source(options, registry)
    loader, checkpoint = find_checkpoint(path, options, registry, warnings)
    config, naming_offer = model_config(checkpoint, options, registry)
    config = apply_overrides(config, options.hf_overrides)
    model_offer, model, architecture = find_model(config, checkpoint, registry, naming_offer, warnings)
    card = model_offer.card
    parsed = read_config(import_dotted(card.config), config, checkpoint.config_file or checkpoint.path)
    platform_offer, platform = find_platform(options, registry, warnings)
    dtype = find_dtype(options, parsed, card, platform_offer.card)
    kv_dtype = dtype if options.kv_cache_dtype == AUTO else options.kv_cache_dtype
    attention = find_attention(options, parsed, card, platform_offer.card.device, dtype, kv_dtype, registry, warnings)
    weights = find_weights(checkpoint, config, options, platform_offer.card.device, dtype, registry, warnings)
    naming = card.naming[checkpoint.naming].target if checkpoint.naming else None
    return Plan(
        model=options.model or Path(path).stem,
        checkpoint=checkpoint,
        config=config,
        architecture=architecture,
        tasks=card.tasks,
        config_class=card.config,
        naming=naming,
        dtype=dtype,
        kv_dtype=kv_dtype,
        max_model_len=find_max_model_len(options, parsed),
        source=source,
        loader=loader,
        model_part=model,
        platform=platform,
        attention=attention,
        weights=weights,
        warnings=tuple(warnings),
    )


def ask(offer: Offer[Any], dotted: str, *arguments: Any, **options: Any) -> Any:
    """Call a function that a card names.

    Raises:
        PluginError: it raised anything but an error that is the user's to mend.
    """
    function = import_dotted(dotted)
    try:
        return function(*arguments, **options)
    except (DovetailError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(
            f"the {offer} failed in {dotted}: {one_line(error)}",
            "report it to its authors; --debug shows the traceback",
        ) from error


def part_of(offer: Offer[Any]) -> Part:
    return Part(name=offer.name, distribution=offer.distribution, version=offer.version, target=offer.card.target)


def choose(
    role: str,
    card: type[C],
    registry: Registry,
    objection: Callable[[C], str | None],
    *,
    explicit: str | None = None,
    wanted: str,
    warnings: list[str],
) -> tuple[Offer[C], Choice]:
    """Take the explicit candidate, or the highest-ranked one without an objection.

    Args:
        objection: why a card does not fit, or None. Called on the explicit candidate alone, if there is one.
        wanted: what is needed, for the error message.

    Raises:
        ResolutionError: nothing fits, or the explicit choice does not; every objection is cited.
    """
    offers = registry.offers(card)
    if explicit is not None and explicit != AUTO:
        offer = registry.get(card, explicit)
        if offer is None:
            if conflict := registry.conflict(card, explicit):
                raise ResolutionError(f"{conflict}, so neither is used", conflict.hint)
            known = ", ".join(o.name for o in offers) or "none"
            hint = registry.suspects(card.kind) or "install the plugin that offers it, or choose one of those"
            raise ResolutionError(f"wanted the {role} {explicit!r}, found {known}", hint)
        if reason := objection(offer.card):
            others = ", ".join(o.name for o in offers if o is not offer)
            raise ResolutionError(
                f"the {role} {explicit!r} was asked for but does not fit: {reason}",
                f"leave the choice to auto{f' or take another of {others}' if others else ''}",
            )
        return offer, Choice(role=role, part=part_of(offer), reason="asked for by name")

    fitting: list[Offer[C]] = []
    rejected: list[Rejected] = []
    for offer in offers:
        if reason := objection(offer.card):
            rejected.append(Rejected(name=offer.name, distribution=offer.distribution, reason=reason))
        else:
            fitting.append(offer)
    if not fitting:
        tried = "; ".join(f"{r.name}: {r.reason}" for r in rejected) or f"no {role} is installed"
        hint = (
            registry.suspects(card.kind)
            or "install a plugin that covers it (dovetail plugins list shows what is there)"
        )
        raise ResolutionError(f"wanted {wanted}, found nothing that fits ({tried})", hint)
    winner = fitting[0]
    ties = [o for o in fitting[1:] if o.card.rank == winner.card.rank]
    if ties:
        warnings.append(
            f"{winner} and {' and '.join(map(str, ties))} fit equally well; {winner.name} is taken by name, name one explicitly to be sure"
        )
    rejected += [
        Rejected(
            name=o.name,
            distribution=o.distribution,
            reason=f"fits, rank {o.card.rank} is {'equal, later by name' if o in ties else 'lower'}",
        )
        for o in fitting[1:]
    ]
    why = f"rank {winner.card.rank}" + (
        f", highest of {len(fitting)} that fit" if len(fitting) > 1 else ", the only one that fits"
    )
    return winner, Choice(role=role, part=part_of(winner), reason=why, rejected=tuple(rejected))


def run_probe(probe: str | None) -> str | None:
    """A probe's objection. One that raises is an objection too, never an error of the whole."""
    if probe is None:
        return None
    try:
        answer = import_dotted(probe)()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"its probe failed ({one_line(error)})"
    return None if answer is None else str(answer)


def find_source(options: PlanOptions, registry: Registry) -> tuple[Choice, str]:
    patterns = [p for o in registry.offers(LoaderCard) for p in o.card.recognises]
    rejected: list[Rejected] = []
    for offer in registry.offers(SourceCard):
        path = ask(
            offer,
            offer.card.target,
            options.model,
            revision=options.revision,
            download_dir=options.download_dir,
            patterns=tuple(dict.fromkeys((*patterns, *SIDE_FILES))),
        )
        if path is not None:
            return Choice(
                role="source", part=part_of(offer), reason=f"resolves to {path}", rejected=tuple(rejected)
            ), str(path)
        rejected.append(
            Rejected(name=offer.name, distribution=offer.distribution, reason="not a reference of its kind")
        )
    raise CheckpointError(
        f"wanted the model {options.model!r}, found no folder, file or hub repository of that name",
        registry.suspects(SourceCard.kind) or "check the spelling; a hub repository is written org/name",
    )


def find_checkpoint(
    path: str, options: PlanOptions, registry: Registry, warnings: list[str]
) -> tuple[Choice, Checkpoint]:
    where = Path(path)
    try:
        names = [where.name] if where.is_file() else sorted(p.name for p in where.iterdir() if p.is_file())
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror})", "give a folder or a weight file") from None

    def matching(card: LoaderCard) -> tuple[str, ...]:
        return tuple(n for n in names if any(fnmatch.fnmatch(n, p) for p in card.recognises))

    def objection(card: LoaderCard) -> str | None:
        if matching(card):
            return None
        return f"reads {', '.join(card.recognises)}; found {_listing(names)}"

    loaders = registry.offers(LoaderCard)
    if options.load_format == AUTO and loaders and all(map(objection, (o.card for o in loaders))):
        patterns = dict.fromkeys(p for o in loaders for p in o.card.recognises)
        raise ResolutionError(
            f"wanted weights ({', '.join(patterns)}) at {path}, found {_listing(names)}",
            registry.suspects(LoaderCard.kind) or "complete the download, or install a plugin that loads what is there",
        )
    offer, choice = choose(
        "loader", LoaderCard, registry, objection,
        explicit=options.load_format, wanted=f"a loader for the weights at {path}", warnings=warnings,
    )  # fmt: skip
    folder = where.parent if where.is_file() else where
    checkpoint = ask(offer, offer.card.inspect, path, tuple(str(folder / n) for n in matching(offer.card)))
    if not isinstance(checkpoint, Checkpoint):
        raise PluginError(
            f"the {offer} described {path} with {type(checkpoint).__name__}, wanted a Checkpoint", "update the plugin"
        )
    update: dict[str, Any] = {}
    if options.tokenizer:
        update = _tokenizer_override(options.tokenizer, registry)
    elif not checkpoint.tokenizer_path:
        update = {"tokenizer_path": str(folder)}
    if checkpoint.naming is None:
        update["generation_config"] = _read_json(folder / "generation_config.json")
    if options.hf_config_path or checkpoint.naming is None:
        file = _config_file(options.hf_config_path, folder)
        update |= {"config": _read_json(file), "config_file": str(file)}
    return choice, checkpoint.model_copy(update=update)


def _tokenizer_override(reference: str, registry: Registry) -> dict[str, Any]:
    """What ``--tokenizer`` names: tokenizer files, or else weights that hold a tokenizer, as their loader says."""
    path = Path(reference)
    if not path.exists():
        raise CheckpointError(f"wanted a tokenizer at {reference}, found nothing there", "correct --tokenizer")
    names = [path.name] if path.is_file() else [p.name for p in path.iterdir() if p.is_file()]
    folder = path.parent if path.is_file() else path
    if not any(n.startswith("tokenizer") for n in names):
        for offer in registry.offers(LoaderCard):
            matching = [n for n in sorted(names) if any(fnmatch.fnmatch(n, p) for p in offer.card.recognises)]
            if matching:
                found = ask(offer, offer.card.inspect, str(path), tuple(str(folder / n) for n in matching))
                if found.tokenizer_path:
                    return {"tokenizer": found.tokenizer, "tokenizer_path": found.tokenizer_path}
    return {"tokenizer": HF_TOKENIZER, "tokenizer_path": str(path)}


def _listing(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "no files"


def _config_file(hf_config_path: str | None, folder: Path) -> Path:
    where = Path(hf_config_path) if hf_config_path is not None else folder
    file = where / "config.json" if where.is_dir() else where
    if file.is_file():
        return file
    if hf_config_path is not None:
        raise CheckpointError(f"wanted a configuration at {hf_config_path}, found none", "correct --hf-config-path")
    raise CheckpointError(
        f"wanted {file.name} in {folder}, found none",
        "complete the download, or name another one with --hf-config-path",
    )


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if there is no such file."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{file} is not readable JSON ({error})", "repair or download it again") from None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{file} holds a JSON {type(found).__name__}, wanted an object", "repair or download it again"
        )
    return found


def model_config(
    checkpoint: Checkpoint, options: PlanOptions, registry: Registry
) -> tuple[dict[str, Any], Offer[ModelCard] | None]:
    """The configuration in Hugging Face's terms, and the model whose naming translated it, if one did."""
    translator = None
    if checkpoint.naming is not None:
        translator = _naming_offer(checkpoint, registry)
    if options.hf_config_path or checkpoint.naming is None:
        return dict(checkpoint.config), translator
    if translator is None:
        raise ResolutionError(
            f"wanted a model plugin for the {checkpoint.naming} architecture {checkpoint.architecture!r}, found "
            + (", ".join(_naming_architectures(checkpoint.naming, registry)) or "none"),
            registry.suspects(ModelCard.kind)
            or "install the plugin that offers it, or give its config.json with --hf-config-path",
        )
    target = f"{translator.card.naming[checkpoint.naming].target}.config"
    return ask(translator, target, checkpoint.architecture, checkpoint.metadata), translator


def _naming_offer(checkpoint: Checkpoint, registry: Registry) -> Offer[ModelCard] | None:
    for offer in registry.offers(ModelCard):
        naming = offer.card.naming.get(checkpoint.naming or "")
        if naming and checkpoint.architecture in naming.architectures:
            return offer
    return None


def _naming_architectures(naming: str, registry: Registry) -> list[str]:
    cards = (o.card.naming.get(naming) for o in registry.offers(ModelCard))
    return sorted({a for card in cards if card for a in card.architectures})


def apply_overrides(config: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """``hf_overrides``: objects merge key by key, anything else replaces; a callable gets a copy and returns the result."""
    if callable(overrides):
        changed = overrides(copy.deepcopy(config))
        if not isinstance(changed, dict):
            raise UsageError(
                f"hf_overrides returned {type(changed).__name__}, wanted the changed configuration as a dict"
            )
    else:
        changed = _merge(config, overrides)
    try:
        # As a file would hold it: what is planned here is read again in the engine's process.
        plain: dict[str, Any] = json.loads(json.dumps(changed))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"hf_overrides holds what JSON cannot ({error})", "give texts, numbers, lists and dicts"
        ) from None
    return plain


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def find_model(
    config: dict[str, Any],
    checkpoint: Checkpoint,
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
    offered = {a for o in registry.offers(ModelCard) for a in o.card.architectures}
    architecture = next((a for a in named if a in offered), named[0])

    def objection(card: ModelCard) -> str | None:
        if architecture not in card.architectures:
            return f"offers {_listing(card.architectures, 4)}"
        if checkpoint.naming and checkpoint.naming not in card.naming:
            return f"cannot read tensors named as in {checkpoint.naming}"
        if (
            translator
            and checkpoint.naming
            and checkpoint.architecture not in card.naming[checkpoint.naming].architectures
        ):
            return f"cannot read the {checkpoint.naming} architecture {checkpoint.architecture!r}"
        return None

    offer, choice = choose(
        "model",
        ModelCard,
        registry,
        objection,
        wanted=f"a model plugin for the architecture {architecture}",
        warnings=warnings,
    )
    reason = f"offers {architecture}; {choice.reason}"
    return offer, choice.model_copy(update={"reason": reason}), architecture


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
    stored = (config.dtype or "").removeprefix("torch.")
    for dtype in (stored, platform.default_dtype, *platform.dtypes):
        if dtype and objection(dtype) is None:
            return dtype
    raise ResolutionError(
        f"the model {model.name} computes in {', '.join(model.dtypes)}, the platform {platform.name} in {', '.join(platform.dtypes)}",
        "choose another platform with --device",
    )


def find_attention(
    options: PlanOptions,
    config: ModelConfig,
    model: ModelCard,
    device: str,
    dtype: str,
    kv_dtype: str,
    registry: Registry,
    warnings: list[str],
) -> Choice:
    needs = config.attention_needs()
    for need in needs:
        if need.kind not in model.attention:
            raise PluginError(
                f"the model {model.name} asks for {need.kind} attention, and its card lists {', '.join(model.attention)}",
                "update the plugin that offers it",
            )

    def objection(card: AttentionCard) -> str | None:
        if not _covers(card.devices, device):
            return f"runs on {', '.join(card.devices)}, not on {device}"
        if dtype not in card.dtypes:
            return f"takes {', '.join(card.dtypes)}, not {dtype}"
        if kv_dtype not in (dtype, *card.kv_dtypes):
            return f"keeps the KV cache in {', '.join((dtype, *card.kv_dtypes))}, not in {kv_dtype}"
        if card.block_sizes is not None and options.block_size not in card.block_sizes:
            return f"takes blocks of {_numbers(card.block_sizes)} tokens, not {options.block_size}"
        for need in needs:
            if fault := _unmet(card, need):
                return fault
        return run_probe(card.probe)

    wanted = [f"{n.kind} with heads of {n.head_dim}" for n in needs]
    if kv_dtype != dtype:
        wanted.append(f"KV cache in {kv_dtype}")
    _, choice = choose(
        "attention", AttentionCard, registry, objection,
        explicit=options.attention_backend, wanted=f"attention on {device} in {dtype} ({', '.join(wanted)})", warnings=warnings,
    )  # fmt: skip
    return choice


def _unmet(card: AttentionCard, need: AttentionNeed) -> str | None:
    if need.kind not in card.kinds:
        return f"does {', '.join(card.kinds)} attention, not {need.kind}"
    if card.head_dims is not None and need.head_dim not in card.head_dims:
        return f"takes heads of {_numbers(card.head_dims)}, not {need.head_dim}"
    return None


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def _covers(devices: Sequence[str], device: str) -> bool:
    return device in devices or "*" in devices


def find_weights(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    options: PlanOptions,
    device: str,
    dtype: str,
    registry: Registry,
    warnings: list[str],
) -> tuple[WeightPlan, ...]:
    """For each stored type: the format that reads it, and for each layer kind the kernels that multiply it."""
    quantization = config.get("quantization_config") or {}
    method = quantization.get("quant_method")
    offers = registry.offers(QuantFormatCard)
    readers = [o.name for o in offers if method in o.card.methods]
    if method is not None and not readers:
        known = sorted({m for o in offers for m in o.card.methods})
        raise ResolutionError(
            f"wanted a format for weights quantized by {method!r}, found {', '.join(known) or 'none'}",
            registry.suspects(QuantFormatCard.kind)
            or f"install dovetail-quant-{method}, or another plugin that reads it",
        )
    asked = _asked_format(options.quantization, registry)
    plans: list[WeightPlan] = []
    formats: set[str] = set()
    for type_, count in sorted(checkpoint.tensor_types.items()):

        def reads(card: QuantFormatCard, type_: str = type_) -> str | None:
            if type_ not in card.types:
                return f"reads {_listing(sorted(card.types), 4)}"
            # Plain tensors (norms, biases, layers left alone) stand in quantized checkpoints too.
            if card.methods and method not in card.methods:
                return f"reads checkpoints quantized by {', '.join(card.methods)}, not {method or 'none'}"
            return None

        wanted = f"a format that reads {count} tensors of type {type_!r} in {checkpoint.path}"
        # Norms, and what was left alone, have other types than the one that was asked for.
        explicit = asked.name if asked and reads(asked.card) is None else None
        format_offer, format_choice = choose(
            "format", QuantFormatCard, registry, reads, explicit=explicit, wanted=wanted, warnings=warnings
        )
        formats.add(format_offer.name)
        plans += [
            _weight_plan(kind, type_, format_offer, format_choice, device, dtype, registry)
            for kind in WEIGHT_KINDS
            if kind in format_offer.card.kinds
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


def _asked_format(name: str | None, registry: Registry) -> Offer[QuantFormatCard] | None:
    if name is None:
        return None
    found = registry.get(QuantFormatCard, name)
    if found is None:
        known = ", ".join(o.name for o in registry.offers(QuantFormatCard))
        raise ResolutionError(
            f"--quantization {name} was asked for, found the formats {known or 'none'}",
            registry.suspects(QuantFormatCard.kind)
            or f"install dovetail-quant-{name}, or another plugin that offers it",
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
) -> WeightPlan:
    packings = {type_, *format_offer.card.types[type_], "*"}
    kernels: list[Part] = []
    rejected: list[Rejected] = []
    for offer in registry.offers(QuantKernelCard):
        card = offer.card
        reason = None
        if not packings & set(card.packings):
            reason = f"takes {', '.join(card.packings)}"
        elif not _covers(card.devices, device):
            reason = f"runs on {', '.join(card.devices)}"
        elif dtype not in card.dtypes:
            reason = f"takes activations in {', '.join(card.dtypes)}, not {dtype}"
        elif kind not in card.kinds:
            reason = f"serves {', '.join(card.kinds)} layers"
        else:
            reason = run_probe(card.probe)
        if reason:
            rejected.append(Rejected(name=offer.name, distribution=offer.distribution, reason=reason))
        else:
            kernels.append(part_of(offer))
    if not kernels:
        raise ResolutionError(
            f"wanted a kernel for {kind} layers of type {type_!r} on {device} in {dtype}, found none that fits "
            f"({'; '.join(f'{r.name}: {r.reason}' for r in rejected)})",
            registry.suspects(QuantKernelCard.kind) or "install a kernel plugin that covers it",
        )
    return WeightPlan(kind=kind, type=type_, format=format_choice, kernels=tuple(kernels), rejected=tuple(rejected))


def find_max_model_len(options: PlanOptions, config: ModelConfig) -> int:
    limit = config.context_length()
    if options.max_model_len is None:
        return limit
    if options.max_model_len > limit:
        raise UsageError(
            f"--max-model-len {options.max_model_len} exceeds the {limit} tokens that the model was made for",
            "lower it, or raise max_position_embeddings (and its RoPE scaling) with --hf-overrides",
        )
    return options.max_model_len

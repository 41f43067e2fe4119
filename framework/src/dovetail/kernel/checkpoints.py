"""Resolves a model reference: its source, its files, and its configuration in the Hugging Face form."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail.api.cards import LoaderCard, ModelCard, QuantFormatCard, SourceCard
from dovetail.api.checkpoint import HF_TOKENIZER, Checkpoint, Naming, ResolvedModel
from dovetail.api.config import merge_text_config
from dovetail.api.errors import CheckpointError, ConfigError, PluginError, ResolutionError, UsageError
from dovetail.api.json_files import read_json
from dovetail.api.text import join_names, quote_foreign
from dovetail.kernel.blame import Blamed, blame, way_out, wrong_answer
from dovetail.kernel.choose import call_target, choose, make_part, run_probe
from dovetail.kernel.discovery import import_part
from dovetail.kernel.options import AUTO, Overrides, PlanOptions
from dovetail.kernel.plan_parts import Choice, RejectedCandidate
from dovetail.kernel.registry import Offer, Registry
from dovetail.kernel.waiting import wait_for
from dovetail.kernel.weight_files import WeightFiles

SIDE_FILES = ("*.json", "*.jinja", "tokenizer.model", "tokenizer.model.*", "*.tiktoken", "*.txt")
"""File patterns of a hub download besides the weights."""


def ask_source(
    offer: Offer[SourceCard],
    reference: str | None,
    *,
    revision: str | None,
    download_dir: str | None,
    patterns: tuple[str, ...],
    token: str | bool | None,
) -> ResolvedModel | None:
    """Call a source with a reference. Returns None if the reference is not of its kind.

    Raises:
        PluginError: it failed, or returned something else, or a path where nothing is.
    """
    asked = quote_foreign(reference) if reference else "the default model"
    found = call_target(
        offer,
        offer.card.target,
        f"to resolve {asked}",
        reference,
        revision=revision,
        download_dir=download_dir,
        patterns=patterns,
        token=token,
    )
    if isinstance(found, (str, os.PathLike)):
        found = ResolvedModel(os.fspath(found))
    if found is None:
        return None
    if not (
        isinstance(found, ResolvedModel)
        and isinstance(found.path, str)
        and isinstance(found.generation_config, Mapping)
    ):
        raise wrong_answer(offer, "a reference", found, "a path, a ResolvedModel or None")
    if not found.path or not os.path.lexists(found.path):  # the working folder is no answer, either
        raise PluginError(
            f"the {offer} answered {asked} with the path {quote_foreign(found.path)}, and nothing is there; wanted None "
            "for what it does not know",
            way_out(offer),
        )
    return found


def find_source(options: PlanOptions, registry: Registry, warnings: list[str]) -> tuple[Choice, ResolvedModel]:
    """The first source that knows the model reference. One that fails is left out, with a warning.

    Raises:
        CheckpointError: none knows it.
        PluginError: one failed, and no other knows it.
    """
    patterns = [p for o in registry.offers(LoaderCard) for p in o.card.recognises]
    rejected: list[RejectedCandidate] = []
    faults: list[PluginError] = []
    for offer in registry.offers(SourceCard):
        try:
            found = ask_source(
                offer,
                options.model,
                revision=options.revision,
                download_dir=options.download_dir,
                patterns=tuple(dict.fromkeys((*patterns, *SIDE_FILES))),
                token=options.hf_token,
            )
        except PluginError as error:
            faults.append(error)
            rejected.append(
                RejectedCandidate(
                    name=offer.name, distribution=offer.distribution, reason=f"it is broken: {error.problem}"
                )
            )
            continue
        if found is not None:
            warnings += map(str, faults)
            reason = f"resolves to {found.path}"
            if found.generation_config:
                recommended = (f"{name} {value}" for name, value in found.generation_config.items())
                reason += f", and recommends {', '.join(recommended)}"
            return Choice(role="source", part=make_part(offer), reason=reason, rejected=tuple(rejected)), found
        rejected.append(
            RejectedCandidate(name=offer.name, distribution=offer.distribution, reason="not a reference of its kind")
        )
    if faults:  # without them it might have been found
        raise faults[0]
    raise CheckpointError(
        f"wanted the model {options.model!r}, found no folder, file or hub repository of that name",
        registry.explain_missing(SourceCard.kind) or "check the spelling; a hub repository is written org/name",
    )


def find_checkpoint(
    path: str, options: PlanOptions, registry: Registry, warnings: list[str]
) -> tuple[Choice, Checkpoint]:
    loaders = registry.offers(LoaderCard)
    files = WeightFiles(path, [o.card for o in loaders])
    names, folder = files.names, files.folder

    def objection(card: LoaderCard) -> str | None:
        if not card.recognises and options.load_format == AUTO:
            return f"reads no files, so it is taken only by --load-format {card.name}"
        # Who names both the loader and the file means this file, whatever it is called.
        if not card.recognises or (files.alone and options.load_format == card.name):
            return None
        if files.of(card):
            return run_probe(card.accepts, path, files.paths(card)) if options.load_format == AUTO else None
        return f"reads {', '.join(card.recognises)}; found {join_names(names) or 'no files'}"

    if options.load_format == AUTO and loaders and all(map(objection, (o.card for o in loaders))):
        patterns = dict.fromkeys(p for o in loaders for p in o.card.recognises)
        raise ResolutionError(
            f"wanted weights ({', '.join(patterns)}) at {path}, found {join_names(names) or 'no files'}",
            registry.explain_missing(LoaderCard.kind)
            or "complete the download, or install a plugin that loads what is there",
        )
    broken: dict[str, PluginError] = {}
    while True:
        try:
            offer, choice = choose(
                "loader", LoaderCard, registry, objection,
                explicit=options.load_format, wanted=f"a loader for the weights at {path}", warnings=warnings,
                broken={name: f"it is broken: {error.problem}" for name, error in broken.items()},
            )  # fmt: skip
        except ResolutionError:
            if broken:  # which is why there is no other
                raise next(iter(broken.values())) from None
            raise
        try:
            checkpoint = inspect_files(offer, path, files)
            break
        except PluginError as error:
            if options.load_format != AUTO:
                raise
            broken[offer.name] = error
    warnings += map(str, broken.values())
    update: dict[str, Any] = {}
    if options.tokenizer or options.tokenizer_revision:
        update = find_tokenizer(str(_locate_tokenizer(options, registry)), registry)
    elif not checkpoint.tokenizer_path:
        update = {"tokenizer_path": str(folder)}
    if checkpoint.naming is None:
        update["generation_config"] = _read_generation_config(folder / "generation_config.json")
    if options.hf_config_path or checkpoint.naming is None:
        file = _config_file(options.hf_config_path, folder)
        config = _add_quantization(read_json(file, dict), folder, registry)
        update |= {"config": config, "config_file": str(file)}
    return choice, checkpoint.model_copy(update=update)


def inspect_files(offer: Offer[LoaderCard], path: str | Path, files: WeightFiles) -> Checkpoint:
    """Have a loader describe its files of a model reference.

    Raises:
        PluginError: it failed, or returned something else.
    """
    paths = files.paths(offer.card)
    with wait_for(offer, f"its description of {path}"):
        checkpoint = call_target(offer, offer.card.inspect, f"to describe {path}", str(path), paths)
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    raise wrong_answer(offer, f"the files at {path}", checkpoint, "a Checkpoint")


def _add_quantization(config: dict[str, Any], folder: Path, registry: Registry) -> dict[str, Any]:
    """The configuration with a ``quantization_config`` that older checkpoints have in a file of its own, and with its
    ``quant_method`` where the file only names the tool that quantized it (``producer``).
    """
    cards = [offer.card for offer in registry.offers(QuantFormatCard)]
    found = config.get("quantization_config")
    usual = None
    if found is None:
        files = ((name, card.methods) for card in cards for name in card.config_files)
        found, usual = next(
            ((read, methods) for name, methods in files if (read := read_json(folder / name, dict))), (None, ())
        )
    if not isinstance(found, dict) or found.get("quant_method") is not None:
        return config if found is None else {**config, "quantization_config": found}
    producer = found.get("producer")
    tool = producer.get("name") if isinstance(producer, dict) else None
    methods = [method for card in cards for method in card.methods if method == tool] or list(usual or ())
    return {**config, "quantization_config": {**found, "quant_method": methods[0]} if methods else found}


def _read_generation_config(file: Path) -> dict[str, Any]:
    """``generation_config.json``. Its sampling parameters are checked where defaults are made of them; the ends of
    outputs here, since the engine reads them without any more questions.
    """
    found = read_json(file, dict)
    ids = found.get("eos_token_id")
    if ids is not None and not all(type(id) is int for id in (ids if isinstance(ids, list) else [ids])):
        raise ConfigError(
            f"eos_token_id is {quote_foreign(ids)} in {file}, wanted a token id, or a list of them",
            "correct or remove it there",
        )
    return found


def _locate_tokenizer(options: PlanOptions, registry: Registry) -> Path:
    """Where the tokenizer is that ``--tokenizer`` and ``--tokenizer-revision`` name."""
    reference = options.tokenizer or options.model
    if not options.tokenizer and reference and not Path(reference).exists():
        reference = reference.partition(":")[0]  # what is behind it names one of the weight files
    path = Path(reference or "").expanduser()
    local = reference is None or path.exists()
    if options.tokenizer_revision and local:
        raise UsageError(
            f"--tokenizer-revision {options.tokenizer_revision} was given, and "
            f"{reference or 'the embedded default'} is no repository of the hub",
            "leave it out, or name a repository with --tokenizer",
        )
    if local:
        return path
    missing = CheckpointError(
        f"wanted a tokenizer at {reference}, found nothing there",
        "correct --tokenizer: a folder, a file, or a hub repository (org/name)",
    )
    if path.is_absolute() or str(reference).startswith((".", "~")):
        raise missing
    fault: PluginError | None = None
    for offer in registry.offers(SourceCard):
        try:
            found = ask_source(
                offer,
                reference,
                revision=options.tokenizer_revision,
                download_dir=options.download_dir,
                patterns=SIDE_FILES,
                token=options.hf_token,
            )
        except CheckpointError as error:
            raise CheckpointError(f"--tokenizer {reference}: {error.problem}", error.hint) from None
        except PluginError as error:
            fault = fault or error
            continue
        if found is not None:
            return Path(found.path)
    raise fault or missing


def find_tokenizer(reference: str, registry: Registry) -> dict[str, Any]:
    """Resolve ``--tokenizer``: tokenizer files, or weights that contain a tokenizer according to their loader.

    Returns:
        The fields ``tokenizer`` and ``tokenizer_path`` of a :class:`~dovetail.api.Checkpoint`.

    Raises:
        CheckpointError: there is no such file or folder.
    """
    path = Path(reference)
    if not path.exists():
        raise CheckpointError(f"wanted a tokenizer at {reference}, found nothing there", "correct --tokenizer")
    offers = registry.offers(LoaderCard)
    files = WeightFiles(path, [o.card for o in offers])
    if not any(n.startswith("tokenizer") for n in files.names):
        for offer in offers:
            if files.of(offer.card) and not run_probe(offer.card.accepts, str(path), files.paths(offer.card)):
                found = inspect_files(offer, path, files)
                if found.tokenizer_path:
                    return {"tokenizer": found.tokenizer, "tokenizer_path": found.tokenizer_path}
    return {"tokenizer": HF_TOKENIZER, "tokenizer_path": str(path)}


def _config_file(hf_config_path: str | None, folder: Path) -> Path:
    where = Path(hf_config_path) if hf_config_path is not None else folder
    file = where / "config.json" if where.is_dir() else where
    if os.path.lexists(file):  # what is no file there is refused where it is read
        return file
    if hf_config_path is not None:
        raise CheckpointError(f"wanted a configuration at {hf_config_path}, found none", "correct --hf-config-path")
    raise CheckpointError(
        f"wanted {file.name} in {folder}, found none",
        "complete the download, or name another one with --hf-config-path",
    )


def find_model_config(
    checkpoint: Checkpoint, options: PlanOptions, registry: Registry
) -> tuple[dict[str, Any], Offer[ModelCard] | None]:
    """The configuration in the Hugging Face form, with the text model's keys at the top, and the model whose naming
    translated it, if one did.

    A container may have one name for several architectures, with experts and without. The first
    model whose naming does not refuse the metadata reads them.
    """
    offers = [] if checkpoint.naming is None else _naming_offers(checkpoint, registry)
    if options.hf_config_path or checkpoint.naming is None:
        return merge_text_config(checkpoint.config), next(iter(offers), None)
    if not offers:
        raise ResolutionError(
            f"wanted a model plugin for the {checkpoint.naming} architecture {checkpoint.architecture!r}, found "
            + (", ".join(_naming_architectures(checkpoint.naming, registry)) or "none"),
            registry.explain_missing(ModelCard.kind)
            or "install the plugin that offers it, or give its config.json with --hf-config-path",
        )
    refusals: list[tuple[str, ConfigError]] = []
    doing = f"to translate the {checkpoint.naming} metadata of {checkpoint.path}"
    for offer in offers:
        naming = find_naming(offer, offer.card.naming[checkpoint.naming].target)
        try:
            with wait_for(offer, f"its translation of the {checkpoint.naming} metadata"), blame(offer, doing):
                config: Any = naming.config(checkpoint.architecture or "", checkpoint.metadata)
        except ConfigError as error:
            refusals.append((offer.name, error))
            continue
        if not isinstance(config, dict):
            raise wrong_answer(offer, f"the {checkpoint.naming} metadata of {checkpoint.path}", config, "a dict")
        return config, offer
    (_, first), *others = refusals
    if not others:
        raise first
    raise ConfigError("; ".join(f"{name}: {refused.problem}" for name, refused in refusals), first.hint)


def find_naming(part: Blamed, dotted: str) -> Naming:
    """Import a model's naming.

    Raises:
        PluginError: it cannot be imported, or is none.
    """
    found: Naming = import_part(part, dotted)
    with blame(part, f"to give the methods of {dotted}"):
        fault = naming_fault(found)
    if fault:
        raise PluginError(f"the {part}: {dotted} {fault}", way_out(part))
    return found


def naming_fault(found: Any) -> str | None:
    """Why an object is no :class:`~dovetail.api.Naming`, or None."""
    if isinstance(found, type):
        return "is a class, wanted an instance of it"
    lacking = [name for name in ("config", "rename", "row_order") if not callable(getattr(found, name, None))]
    return f"lacks {', '.join(lacking)}" if lacking else None


def _naming_offers(checkpoint: Checkpoint, registry: Registry) -> list[Offer[ModelCard]]:
    """The models that know the container's name of the architecture, best first."""
    found = []
    for offer in registry.offers(ModelCard):
        naming = offer.card.naming.get(checkpoint.naming or "")
        if naming and checkpoint.architecture in naming.architectures:
            found.append(offer)
    return found


def _naming_architectures(naming: str, registry: Registry) -> list[str]:
    cards = (o.card.naming.get(naming) for o in registry.offers(ModelCard))
    return sorted({a for card in cards if card for a in card.architectures})


def apply_overrides(config: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Apply ``hf_overrides``: objects are merged key by key, anything else replaces; a callable gets a copy and
    returns the result. What they put into ``text_config`` is moved to the top.
    """
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
    return merge_text_config(plain)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged

"""LoRA adapters in the API's process: how users name them, and the description that the engine loads from.

An adapter is a folder as PEFT saves it: ``adapter_config.json`` and ``adapter_model.*``, the latter in any container
that an installed loader reads.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dovetail.api.cards import LoaderCard, SourceCard
from dovetail.api.checkpoint import Checkpoint
from dovetail.api.errors import DovetailError, PluginError, RequestError, UsageError
from dovetail.api.json_files import read_json
from dovetail.api.text import join_names
from dovetail.kernel.blame import wrong_answer
from dovetail.kernel.checkpoints import ask_source
from dovetail.kernel.choose import call_target, make_part
from dovetail.kernel.plan_parts import FrozenModel, Part
from dovetail.kernel.registry import Registry
from dovetail.kernel.weight_files import matches

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_PATTERN = "adapter_model*"
MAX_NAME_CHARS = 256


@dataclass(frozen=True)
class LoRARequest:
    """The adapter to generate with, in the offline API.

    Attributes:
        lora_name: the adapter's name.
        lora_int_id: the caller's number for it, from 1. One name always has one number and one path.
        lora_path: its folder, or its hub repository.

    Raises:
        UsageError: one of them is missing.
    """

    lora_name: str
    lora_int_id: int
    lora_path: str

    def __post_init__(self) -> None:
        if not self.lora_name or not self.lora_path or self.lora_int_id < 1:
            raise UsageError(
                f"LoRARequest was given the name {self.lora_name!r}, the number {self.lora_int_id} and the path {self.lora_path!r}",
                "give a name, a number from 1, and a folder",
            )


def needs_loading(request: LoRARequest, loaded: Mapping[str, str], enabled: bool) -> bool:
    """Whether an adapter must be loaded before a request can run with it.

    Args:
        loaded: name → path, of the loaded adapters.
        enabled: whether adapters are enabled.

    Raises:
        RequestError: the object is not a LoRARequest, the name belongs to another path, or adapters are not enabled.
    """
    if not isinstance(request, LoRARequest):
        raise RequestError(
            f"lora_request is a {type(request).__name__}",
            "give a LoRARequest(name, number, path)",
            param="lora_request",
        )
    known = loaded.get(request.lora_name)
    if known is not None and known != request.lora_path:
        raise RequestError(
            f"the adapter {request.lora_name!r} was loaded from {known!r}, and is now asked for from {request.lora_path!r}",
            "give each adapter a name of its own",
            param="lora_request",
        )
    if known is None and not enabled:
        raise adapters_not_enabled(request.lora_name)
    return known is None


def adapters_not_enabled(name: str) -> RequestError:
    """The error for a request with an adapter if adapters are not enabled."""
    return RequestError(
        f"the adapter {name!r} was asked for, and adapters are not enabled",
        "start with enable_lora=True",
        param="lora_request",
    )


class LoraModule(BaseModel):
    """One entry of ``--lora-modules``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    path: str = Field(min_length=1)


class AdapterSource(FrozenModel):
    """An adapter on disk: all that the engine needs to read it.

    Attributes:
        path: its folder.
        origin: as the user named it: a folder or a hub repository.
        config: ``adapter_config.json``.
        loader: yields the tensors of ``checkpoint``; see :attr:`dovetail.api.LoaderCard.target`.
    """

    name: str
    path: str
    origin: str
    config: dict[str, Any]
    checkpoint: Checkpoint
    loader: Part


def parse_lora_modules(values: Sequence[str]) -> list[LoraModule]:
    """Parse ``--lora-modules``: ``name=path``, or a JSON object with ``name`` and ``path``.

    Raises:
        UsageError: names every entry that cannot be parsed, and every name that was given twice.
    """
    found, faults = [], []
    for value in values:
        name, _, path = value.partition("=")
        try:
            if value.lstrip().startswith("{"):
                found.append(LoraModule.model_validate_json(value))
            else:
                found.append(LoraModule(name=name, path=path))
        except ValidationError as error:
            reasons = ", ".join(" ".join((*map(str, e["loc"]), e["msg"])) for e in error.errors())
            faults.append(f"{value!r} ({reasons})")
    names = [module.name for module in found]
    faults += [
        f"the name {name!r} stands there {names.count(name)} times"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if faults:
        raise UsageError(
            f"cannot read --lora-modules: {'; '.join(faults)}", 'write name=path, or {"name": …, "path": …}'
        )
    return found


def check_adapter_name(name: str, served: Iterable[str], loaded: Iterable[str]) -> None:
    """Check that an adapter's name is not empty, too long, or in use.

    Args:
        served: names of the model itself.
        loaded: names of the loaded adapters.

    Raises:
        RequestError: it is, or it has characters that cannot be seen.
    """
    if not name:
        reason = "the adapter has no name"
    elif len(name) > MAX_NAME_CHARS or not name.isprintable():
        # It is in the log, in metrics, and in every list of models.
        reason = (
            f"wanted an adapter's name of at most {MAX_NAME_CHARS} visible characters, found {len(name)}: {name[:40]!r}"
        )
    elif name in served:
        reason = f"{name!r} is a name of the model itself"
    elif name in loaded:
        reason = f"an adapter {name!r} is loaded already"
    else:
        return
    raise RequestError(reason, "choose another name, or unload the adapter that has it", param="lora_name")


def find_adapter(
    name: str, path: str, registry: Registry, download_dir: str | None = None, token: str | bool | None = None
) -> AdapterSource:
    """Find an adapter and a loader for it, without reading weights.

    Args:
        path: a folder, or a hub repository.
        registry: of the installed plugins.
        download_dir: where hub downloads are stored.
        token: for the hub, see ``--hf-token``.

    Raises:
        RequestError: there is no such folder, or it does not hold an adapter that can be read; with the reason.
    """

    def refused(reason: str, hint: str) -> RequestError:
        return RequestError(f"the adapter {name!r} cannot be loaded from {path!r}: {reason}", hint, param="lora_path")

    try:
        folder = _resolve(path, registry, download_dir, token)
        if folder is None or not folder.is_dir():
            raise refused("there is no such folder or hub repository", f"give the folder with {ADAPTER_CONFIG_FILE}")
        config = read_json(folder / ADAPTER_CONFIG_FILE, dict)
        if not config:
            raise refused(
                f"there is no {ADAPTER_CONFIG_FILE} in it, or an empty one", "give the folder that PEFT saved"
            )
        files = sorted(
            p.name for p in folder.iterdir() if p.is_file() and fnmatch.fnmatch(p.name, ADAPTER_WEIGHTS_PATTERN)
        )
        for offer in registry.offers(LoaderCard):
            matching = tuple(str(folder / file) for file in files if matches(file, offer.card.recognises))
            if matching:
                doing = f"to describe {folder}"
                checkpoint = call_target(offer, offer.card.inspect, doing, str(folder), matching)
                if not isinstance(checkpoint, Checkpoint):
                    raise wrong_answer(offer, f"the files at {folder}", checkpoint, "a Checkpoint")
                return AdapterSource(
                    name=name,
                    path=str(folder),
                    origin=path,
                    config=config,
                    checkpoint=checkpoint,
                    loader=make_part(offer),
                )
    except RequestError:
        raise
    except DovetailError as error:
        raise refused(error.problem, error.hint) from None
    except (OSError, ValueError, RecursionError) as error:
        raise refused(str(error), "check the path, its permissions and its contents") from None
    patterns = dict.fromkeys(p for offer in registry.offers(LoaderCard) for p in offer.card.recognises)
    raise refused(
        f"no installed loader reads its weights: wanted {ADAPTER_WEIGHTS_PATTERN} as one of {', '.join(patterns)}, found {join_names(files) or 'no files'}",
        registry.explain_missing(LoaderCard.kind)
        or "complete the download, or install a plugin that loads what is there",
    )


def _resolve(path: str, registry: Registry, download_dir: str | None, token: str | bool | None) -> Path | None:
    """Resolve a reference to a folder, with the first source that knows it."""
    if not path:
        return None
    fault: PluginError | None = None
    for offer in registry.offers(SourceCard):
        try:
            found = ask_source(
                offer,
                path,
                revision=None,
                download_dir=download_dir,
                patterns=(ADAPTER_WEIGHTS_PATTERN, ADAPTER_CONFIG_FILE),
                token=token,
            )
        except PluginError as error:
            fault = fault or error
            continue
        if found is not None:
            return Path(found.path)
    if fault is not None:
        raise fault
    return None

"""The child process of ``check_registration``: it is run by path, so that it imports the plugin and nothing of
``dovetail.testing``.

Reads a JSON object (module, path) and prints one (faults, seconds) as its last line.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail.api import Card

FUNCTIONS = ("inspect", "probe", "accepts", "validate_source")
"""Attributes of cards that name functions; the others name classes or objects."""
HEAVY = ("torch", "transformers", "tensorflow", "jax", "triton", "PIL")
BASES = {
    "model": "dovetail.nn.PoolingModel",
    "format": "dovetail.nn.QuantFormat",
    "kernel": "dovetail.nn.WeightKernel",
    "attention": "dovetail.nn.AttentionBackend",
    "platform": "dovetail.nn.Platform",
    "grammar": "dovetail.api.GrammarBackend",
    "proposer": "dovetail.api.Proposer",
    "logits_processor": "dovetail.api.LogitsProcessor",
    "tool_parser": "dovetail.api.ToolParser",
    "reasoning_parser": "dovetail.api.ReasoningParser",
}
"""Kind of card → base class of its target; targets of other kinds are callables."""
EXPERTS_BASE = "dovetail.nn.ExpertsKernel"
"""For kernels of experts."""


def imported_heavy_modules() -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


def torch_free_names(card: Card) -> Iterator[tuple[str, str]]:
    """The names on a card that must be importable without torch: (attribute, dotted name)."""
    for attribute in ("config", "processor", "inspect", "probe", "accepts", "validate_source"):
        if (dotted := getattr(card, attribute, None)) is not None:
            yield attribute, dotted
    if card.kind.endswith("_parser"):
        yield "target", card.target  # type: ignore[attr-defined]
    for container, naming in getattr(card, "naming", {}).items():
        yield f"naming[{container!r}]", naming.target


def examine(module_name: str) -> tuple[list[str], float]:
    # Imported beforehand: what the framework itself costs is not the plugin's.
    from dovetail.api import PluginError
    from dovetail.kernel.discovery import find_cards, import_dotted

    faults: list[str] = []
    started = time.process_time()
    module = importlib.import_module(module_name)
    cards = find_cards(module)
    seconds = time.process_time() - started
    if not cards:
        faults.append("registers no card")
    if found := imported_heavy_modules():
        faults.append(f"importing and registering it imports {', '.join(found)}")
    clean = not found
    for card in cards:
        for attribute, dotted in torch_free_names(card):
            where = f"{card.kind} {card.name!r}: {attribute} {dotted}"
            try:
                value = import_dotted(dotted)
            except PluginError as error:
                faults.append(f"{where}: {error}")
                continue
            if clean and (found := imported_heavy_modules()):
                faults.append(f"{where}: importing it imports {', '.join(found)}")
                clean = False
            if attribute in FUNCTIONS and not callable(value):
                faults.append(f"{where} is not callable")
    faults += [fault for card in cards if (fault := wrong_target(card))]
    return faults, seconds


def wrong_target(card: Card) -> str | None:
    from pydantic import BaseModel

    from dovetail.api import ModelCard, ModelConfig, PluginError, QuantFormatCard
    from dovetail.kernel.discovery import import_dotted

    where = f"{card.kind} {card.name!r}"
    try:
        target = import_dotted(card.target)  # type: ignore[attr-defined]
    except PluginError as error:
        return f"{where}: target: {error}"
    if card.kind in BASES:
        name = EXPERTS_BASE if "experts" in getattr(card, "kinds", ()) and card.kind == "kernel" else BASES[card.kind]
        base = import_dotted(":".join(name.rsplit(".", 1)))
        if not (isinstance(target, type) and issubclass(target, base)):
            return f"{where}: its target is not a subclass of {name}"
        if abstract := sorted(getattr(target, "__abstractmethods__", ())):
            return f"{where}: its target lacks {', '.join(abstract)}"
    elif not callable(target):
        return f"{where}: its target is not callable"
    generates = isinstance(card, ModelCard) and "generate" in card.tasks
    if generates and not issubclass(target, import_dotted("dovetail.nn:CausalLM")):
        return f"{where}: its target is not a subclass of dovetail.nn.CausalLM, which the task generate requires"
    if isinstance(card, (ModelCard, QuantFormatCard)) and card.config is not None:
        wanted = ModelConfig if isinstance(card, ModelCard) else BaseModel
        try:
            config = import_dotted(card.config)
        except PluginError:
            return None  # reported among the light names
        if not (isinstance(config, type) and issubclass(config, wanted)):
            name = "dovetail.api.ModelConfig" if wanted is ModelConfig else "pydantic.BaseModel"
            return f"{where}: its config is not a subclass of {name}"
    return None


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    # Exactly that of the process that asks.
    sys.path[:] = request["path"]
    found_faults, cost = examine(request["module"])
    print(json.dumps({"faults": found_faults, "seconds": cost}))

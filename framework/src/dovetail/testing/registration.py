"""Tests of registration: it is cheap and torch-free, and every dotted name refers to what the card says."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from dovetail.api import Card, ModelCard, ModelConfig, PluginError, QuantFormatCard
from dovetail.kernel.discovery import find_cards, import_dotted
from dovetail.python_path import child_environment, python_command

PROBE = Path(__file__).with_name("registration_probe.py")
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


def check_registration(plugin: str | ModuleType, *, limit: float = 0.25) -> None:
    """Import a plugin's module as discovery does, in a separate process; and its cards' targets, in this one.

    Checks that importing and registering takes at most ``limit`` seconds of processor time and imports neither torch
    nor another framework; that what a card's ``config``, ``processor``, ``naming``, ``inspect``, ``probe``, ``accepts`` and ``validate_source``
    name exists and is torch-free; and that every ``target`` exists and is of its card's class.

    Args:
        plugin: the module of the entry point.

    Raises:
        AssertionError: names every claim that failed.
    """
    name = plugin if isinstance(plugin, str) else plugin.__name__
    # The child sees exactly what this process sees, wherever its packages come from.
    command = python_command(str(PROBE), json.dumps({"module": name, "path": sys.path}))
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"registration of {name} failed:\n{done.stdout}{done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    faults: list[str] = report["faults"]
    if report["seconds"] > limit:
        faults.append(
            f"importing and registering took {report['seconds']:.2f} s of processor time, more than {limit} s"
        )
    # Most of them import torch, which takes seconds, and which this process has imported.
    faults += [fault for card in find_cards(importlib.import_module(name)) if (fault := wrong_target(card))]
    assert not faults, f"{name}: " + "; ".join(faults)


def wrong_target(card: Card) -> str | None:
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

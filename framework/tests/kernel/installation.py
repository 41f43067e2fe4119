"""A working installation of made-up parts, and a checkpoint that holds almost nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dovetail.api import (
    Card,
)
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan import Plan
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import resolve

from .fakes import (
    attention,
    format_,
    grammar,
    kernel,
    loader,
    logits_processor,
    model,
    platform,
    plugin,
    proposer,
    reasoning_parser,
    source,
    tool_parser,
)

CONFIG = {"architectures": ["TinyForCausalLM"], "vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1}
PARTS: dict[str, Card] = {
    "model": model("tiny"),
    "loader": loader("plain"),
    "format": format_("dense", ("float32", "bfloat16"), ("dense",)),
    "kernel": kernel("matmul", "dense"),
    "attention": attention("eager"),
    "platform": platform(),
    "source": source(),
    "grammar": grammar(),
    "proposer": proposer(),
    "logits_processor": logits_processor(),
    "tool_parser": tool_parser(),
    "reasoning_parser": reasoning_parser(),
}
OPTIONAL = ("grammar", "proposer", "logits_processor", "tool_parser", "reasoning_parser")
"""Kinds that a model runs without."""


def configure(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def weights(folder: Path, **types: int) -> None:
    (folder / "weights.w").write_text(json.dumps(types))


def registry(*more: Card, without: str = "", broken: str = "", **parts: Card) -> Registry:
    """The parts of a working installation, some replaced, some added."""
    cards = [card for kind, card in {**PARTS, **parts}.items() if kind != without]
    plugins = [plugin("base", *cards), *(plugin(f"more-{i}", card) for i, card in enumerate(more))]
    if broken:
        plugins.append(plugin("cracked"))
        plugins[-1].quarantine(broken)
    return Registry(plugins)


def plan(
    folder: Path | str, *more: Card, without: str = "", broken: str = "", parts: Any = None, **options: Any
) -> Plan:
    return resolve(
        PlanOptions(model=str(folder), **options), registry(*more, without=without, broken=broken, **parts or {})
    )


def reasons(plan: Plan, role: str) -> dict[str, str]:
    (choice,) = [c for c in plan.choices() if c.role == role]
    return {r.name: r.reason for r in choice.rejected}

"""Finds the available logits processors, and those for all requests."""

from __future__ import annotations

import importlib.util
import re

from dovetail.api.cards import LogitsProcessorCard
from dovetail.api.errors import UsageError
from dovetail.api.text import join_names
from dovetail.kernel.discovery import import_hint
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan_parts import LogitsProcessorPlan
from dovetail.kernel.registry import Registry

FLAG = "--logits-processors"
DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def find_logits_processors(options: PlanOptions, registry: Registry) -> tuple[LogitsProcessorPlan, ...]:
    """All processors that requests may name: those of plugins, and those that the options name by module and class.

    Raises:
        UsageError: the options name one that does not exist.
    """
    offers = registry.offers(LogitsProcessorCard)
    found = {
        offer.name: LogitsProcessorPlan(
            name=offer.name,
            distribution=offer.distribution,
            version=offer.version,
            target=offer.card.target,
            config=offer.card.config,
        )
        for offer in offers
    }
    for name in options.logits_processors:
        if DOTTED.fullmatch(name):
            _check_module(name)
            found[name] = LogitsProcessorPlan(name=name, target=name, everywhere=True)
        elif name in found:
            found[name] = found[name].model_copy(update={"everywhere": True})
        else:
            installed = join_names([offer.name for offer in offers]) or "none"
            raise UsageError(
                f"{FLAG}: there is no logits processor {name!r} (installed: {installed})",
                registry.explain_missing(LogitsProcessorCard.kind) or "name one of those, or a class as module:Class",
            )
    return tuple(found.values())


def _check_module(dotted: str) -> None:
    """Check that a module exists. It is only imported in the engine, because it may import torch."""
    module = dotted.partition(":")[0]
    try:
        there = module == "__main__" or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        there = False
    if not there:
        raise UsageError(f"{FLAG} {dotted}: there is no module {module}", import_hint(module))

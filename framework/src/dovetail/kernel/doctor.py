"""Examines the installed plugins: which ones work, and what to do about the others."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dovetail.api.cards import Card, LoaderCard, ModelCard, ParserCard, PlatformCard, SourceCard
from dovetail.api.config import ModelConfig
from dovetail.api.errors import PluginError
from dovetail.kernel.blame import describe_type
from dovetail.kernel.checkpoints import naming_fault
from dovetail.kernel.choose import BROKEN_PROBE, run_probe
from dovetail.kernel.discovery import Plugin, import_dotted
from dovetail.kernel.interrupts import reraise_interrupt, watch_interrupts
from dovetail.kernel.registry import Registry
from dovetail.kernel.waiting import wait_for

Severity = Literal["error", "warning", "note"]

SLOW_SECONDS = 0.5
"""Limit of a plugin's import time in seconds. A slower plugin delays every command, most likely because it imports
torch.
"""


class Finding(BaseModel):
    """One finding of the doctor."""

    model_config = ConfigDict(frozen=True)

    severity: Severity
    subject: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.subject}: {self.problem}" + (f"; {self.hint}" if self.hint else "")


def examine(registry: Registry) -> list[Finding]:
    """Examine everything, and list errors first. Imports what needs no torch, and runs all probes, which may import
    it.
    """
    findings = [
        Finding(severity="error", subject=p.name, problem=p.reason, hint="update, repair or uninstall it")
        for p in registry.quarantined_plugins
    ]
    findings += [
        Finding(severity="error", subject=f"{c.kind} {c.name}", problem=f"{c}, so neither is used", hint=c.hint)
        for c in registry.conflicts
    ]
    findings += [
        Finding(severity="note", subject=p.name, problem=p.reason) for p in registry.plugins if p.status == "denied"
    ]
    findings += [
        Finding(
            severity="warning",
            subject=p.name,
            problem=f"takes {p.seconds:.1f} s to import, which every command waits for",
            hint="its registration should import dovetail.api alone",
        )
        for p in registry.plugins
        if p.seconds > SLOW_SECONDS
    ]
    findings += [
        Finding(
            severity="warning",
            subject="plugin filter",
            problem=f"the term {term} matches no installed plugin",
            hint="correct it, or leave it out; dovetail plugins list shows the names",
        )
        for term in registry.idle_terms
    ]
    findings += [
        Finding(
            severity="warning",
            subject=p.name,
            problem="imports torch at registration, which every command waits for",
            hint="its registration should import dovetail.api alone",
        )
        for p in registry.plugins
        if p.imports_torch
    ]
    with watch_interrupts():
        # What needs no torch first: once it is there, nobody can tell who else brings it.
        for examine_card in (_examine_torch_free, _examine_targets, _examine_probe):
            for plugin in registry.plugins:
                for card in plugin.cards:
                    findings += examine_card(plugin, card)
        available = 0
        for offer in registry.offers(PlatformCard):
            with wait_for(offer, "its probe"):
                available += run_probe(offer.card.probe) is None
    if not available:
        findings.append(
            Finding(
                severity="warning",
                subject="platforms",
                problem="none is available, and a model needs one",
                hint="install a backend plugin",
            )
        )
    for card_class, what in ((ModelCard, "model"), (LoaderCard, "loader")):
        if not registry.offers(card_class):
            findings.append(
                Finding(
                    severity="warning",
                    subject=f"{what}s",
                    problem="none is installed, and a server needs one",
                    hint=f"install a {what} plugin",
                )
            )
    order: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda f: order[f.severity])


def _examine_torch_free(plugin: Plugin, card: Card) -> Iterator[Finding]:
    """Import what resolution, or the API's process, would import."""
    for field, dotted in named_objects(card):
        if not is_torch_free(card, field):
            continue
        had_torch = "torch" in sys.modules
        found = _missing_module(plugin, card, dotted)
        if found is None:
            try:
                with wait_for(plugin, f"the import of {dotted.partition(':')[0]}"):
                    fault = _fault_of(card, field, import_dotted(dotted))
            except PluginError as error:
                fault = error.problem
            if fault is not None:
                problem = f"the {card.kind} {card.name}: its {field} {dotted}: {fault}"
                found = Finding(severity="error", subject=plugin.name, problem=problem, hint="update it")
        if found is not None:
            yield found
        if "torch" in sys.modules and not had_torch:
            yield Finding(
                severity="warning",
                subject=plugin.name,
                problem=f"the {card.kind} {card.name}: importing its {field} {dotted} imports torch, which every command waits for",
                hint="only what runs the model may import torch",
            )


def _examine_targets(plugin: Plugin, card: Card) -> Iterator[Finding]:
    """Look for the modules that are imported in the engine."""
    for field, dotted in named_objects(card):
        if not is_torch_free(card, field) and (missing := _missing_module(plugin, card, dotted)) is not None:
            yield missing


def _missing_module(plugin: Plugin, card: Card, dotted: str) -> Finding | None:
    with wait_for(plugin, f"the import of {dotted.partition(':')[0]}"):  # of the packages that it is in
        if _module_exists(dotted):
            return None
    problem = f"the {card.kind} {card.name} names {dotted}, and there is no such module"
    return Finding(severity="error", subject=plugin.name, problem=problem, hint="reinstall or update it")


def _fault_of(card: Card, field: str, found: Any) -> str | None:
    """Why an object is not what a field of the card names, or None."""
    if field == "config":
        base = ModelConfig if isinstance(card, ModelCard) else BaseModel
        if not (isinstance(found, type) and issubclass(found, base)):
            return f"is no subclass of {base.__name__}"
    elif field.startswith("naming"):
        return naming_fault(found)
    elif not callable(found):
        return f"is {describe_type(found)}, and cannot be called"
    return None


def _examine_probe(plugin: Plugin, card: Card) -> Iterator[Finding]:
    with wait_for(plugin, f"the probe of {card.name}"):
        reason = run_probe(getattr(card, "probe", None))
    if reason is None:
        return
    if reason.startswith(BROKEN_PROBE):
        problem = f"the {card.kind} {card.name}: {reason}"
        yield Finding(severity="error", subject=plugin.name, problem=problem, hint="update it")
    else:
        yield Finding(severity="note", subject=f"{card.kind} {card.name}", problem=f"not available: {reason}")


def named_objects(card: Card) -> list[tuple[str, str]]:
    """Every ``module:attribute`` that a card names, with the field that names it."""
    fields = ("target", "config", "inspect", "probe", "accepts", "validate_source")
    names: list[tuple[str, str]] = [(field, value) for field in fields if (value := getattr(card, field, None))]
    if isinstance(card, ModelCard):
        names += [(f"naming of {container}", naming.target) for container, naming in card.naming.items()]
    return names


def is_torch_free(card: Card, field: str) -> bool:
    """Whether what a field names is imported without torch: for the Plan, or in the API's process."""
    return field != "target" or isinstance(card, (SourceCard, ParserCard))


def _module_exists(dotted: str) -> bool:
    try:
        return importlib.util.find_spec(dotted.partition(":")[0]) is not None
    except BaseException as error:  # a parent package that cannot be imported
        reraise_interrupt(error)
        return False

"""Examines the installed plugins: which ones work, and what to do about the others."""

from __future__ import annotations

import importlib.util
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dovetail.api.cards import Card, LoaderCard, ModelCard, PlatformCard
from dovetail.kernel.choose import run_probe
from dovetail.kernel.registry import Registry

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
    """Examine everything, and list errors first. Runs the platforms' probes, which may import torch."""
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
    for plugin in registry.plugins:
        for card in plugin.cards:
            for dotted in dotted_names(card):
                if not _module_exists(dotted):
                    findings.append(
                        Finding(
                            severity="error",
                            subject=plugin.name,
                            problem=f"the {card.kind} {card.name} names {dotted}, and there is no such module",
                            hint="reinstall or update it",
                        )
                    )
    available = 0
    for offer in registry.offers(PlatformCard):
        reason = run_probe(offer.card.probe)
        available += reason is None
        if reason is not None:
            findings.append(
                Finding(severity="note", subject=f"platform {offer.name}", problem=f"not available: {reason}")
            )
    if not available:
        findings.append(
            Finding(severity="error", subject="platforms", problem="none is available", hint="install a backend plugin")
        )
    for card_class, what in ((ModelCard, "model"), (LoaderCard, "loader")):
        if not registry.offers(card_class):
            findings.append(
                Finding(
                    severity="error", subject=f"{what}s", problem="none is installed", hint=f"install a {what} plugin"
                )
            )
    order: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda f: order[f.severity])


def dotted_names(card: Card) -> list[str]:
    """Every ``module:attribute`` that a card names."""
    fields = ("target", "config", "inspect", "probe", "validate_source")
    names: list[str] = [value for field in fields if (value := getattr(card, field, None))]
    if isinstance(card, ModelCard):
        names += [naming.target for naming in card.naming.values()]
    return names


def _module_exists(dotted: str) -> bool:
    try:
        return importlib.util.find_spec(dotted.partition(":")[0]) is not None
    except KeyboardInterrupt:
        raise
    except BaseException:  # a parent package that cannot be imported
        return False

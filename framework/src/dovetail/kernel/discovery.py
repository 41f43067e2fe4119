"""Finds and imports plugins through entry points, and isolates errors of each.

pluggy's own entry-point loader stops at the first plugin that raises, and silently skips repeated names. So the loop is
ours, and pluggy matches implementations to hook specifications.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import importlib.metadata
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageMetadata
from pathlib import Path
from typing import Any, Literal

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dovetail.api import hooks
from dovetail.api.cards import (
    AttentionCard,
    Card,
    GrammarCard,
    LoaderCard,
    LogitsProcessorCard,
    ModelCard,
    PlatformCard,
    ProposerCard,
    QuantFormatCard,
    QuantKernelCard,
    ReasoningParserCard,
    SourceCard,
    ToolParserCard,
)
from dovetail.api.errors import PluginError, UsageError
from dovetail.kernel.blame import FRAMEWORK, Blamed, describe_error, describe_type, way_out
from dovetail.kernel.interrupts import is_interrupt, raise_if_pressed, watch_interrupts
from dovetail.kernel.streams import keep_streams
from dovetail.kernel.waiting import wait_for

GROUP = "dovetail.plugins"
PLUGINS_VARIABLE = "DOVETAIL_PLUGINS"

HOOKS: dict[str, tuple[type[Card], ...]] = {
    "dovetail_register_models": (ModelCard,),
    "dovetail_register_loaders": (LoaderCard,),
    "dovetail_register_quantization": (QuantFormatCard, QuantKernelCard),
    "dovetail_register_attention": (AttentionCard,),
    "dovetail_register_platforms": (PlatformCard,),
    "dovetail_register_sources": (SourceCard,),
    "dovetail_register_grammars": (GrammarCard,),
    "dovetail_register_proposers": (ProposerCard,),
    "dovetail_register_logits_processors": (LogitsProcessorCard,),
    "dovetail_register_parsers": (ToolParserCard, ReasoningParserCard),
}
"""Hook → the types of cards that it may return."""

KINDS: tuple[str, ...] = tuple(card.kind for cards in HOOKS.values() for card in cards)

Status = Literal["ok", "quarantined", "denied"]


@dataclass
class Plugin:
    """One entry point, and the result of loading it."""

    name: str
    """``distribution:entry point``, unique."""
    entry: importlib.metadata.EntryPoint
    distribution: str
    version: str
    status: Status = "ok"
    reason: str = ""
    """Why it is quarantined or denied, in one line."""
    detail: str = ""
    """The traceback, if it raised."""
    cards: list[Card] = field(default_factory=list)
    seconds: float = 0.0
    """Time to import and register."""
    imports_torch: bool = False
    """Whether torch was imported with it, and was not there before."""
    metadata: PackageMetadata | None = None
    """Of its distribution, which takes a while to read."""

    def __str__(self) -> str:
        return f"plugin {self.entry.name} ({self.distribution} {self.version})"

    @property
    def summary(self) -> str:
        """The distribution's own one-line description."""
        found = self.metadata.get_all("Summary") if self.metadata else None
        return str(found[0]) if found else ""

    @property
    def requires(self) -> list[str]:
        """The distribution's requirements."""
        found = self.metadata.get_all("Requires-Dist") if self.metadata else None
        return found or (self.entry.dist.requires if self.entry.dist else None) or []

    def quarantine(self, reason: str, detail: str = "") -> None:
        self.status, self.reason, self.detail, self.cards = "quarantined", reason, detail, []


class PluginFilter:
    """``--plugins`` / ``DOVETAIL_PLUGINS``: which distributions are allowed, and which kinds of card from them.

    A comma-separated list of ``[kind:]distribution`` terms with shell wildcards. A term with ``-`` or ``!`` before it,
    or before its distribution (``kind:-distribution``), denies. If there is any term without these, everything that no such term matches is denied. The framework's own
    parts are always allowed.
    """

    def __init__(self, text: str = "") -> None:
        self.allow: list[tuple[str, str]] = []
        self.deny: list[tuple[str, str]] = []
        self.terms: dict[str, str] = {}
        """Each term as it was written, and the pattern of distributions in it."""
        for term in filter(None, (t.strip() for t in text.split(","))):
            kind, _, signed = term.lstrip("-!").rpartition(":")
            distribution = signed.lstrip("-!")
            if not distribution or (kind and kind != "*" and kind not in KINDS):
                raise UsageError(
                    f"cannot read the plugin filter term {term!r}",
                    f"write [kind:]distribution, with - before it to deny; kinds: {', '.join(KINDS)}",
                )
            rule = (kind or "*", str(canonicalize_name(distribution)))
            (self.deny if term[0] in "-!" or signed != distribution else self.allow).append(rule)
            self.terms[term] = rule[1]

    def unmatched_terms(self, distributions: Iterable[str]) -> list[str]:
        """The terms that match none of these distributions, as they were written."""
        names = [canonicalize_name(name) for name in distributions]
        return [term for term, pattern in self.terms.items() if not fnmatch.filter(names, pattern)]

    def permits(self, distribution: str, kind: str | None = None) -> bool:
        """Whether cards of ``kind`` (None: of any kind) may come from ``distribution``."""
        name = canonicalize_name(distribution)
        if name == FRAMEWORK:
            return True

        def matches(rules: list[tuple[str, str]], whole: bool) -> bool:
            return any(
                fnmatch.fnmatchcase(name, pattern) and (k == "*" or k == kind or (kind is None and not whole))
                for k, pattern in rules
            )

        if matches(self.deny, whole=True):
            return False
        return not self.allow or matches(self.allow, whole=False)


def framework_version() -> str:
    return importlib.metadata.version(FRAMEWORK)


def find_entry_points() -> Iterator[Plugin]:
    """All entry points of the plugin group, without importing anything. If a distribution is on ``sys.path`` twice, the
    first one counts, as for imports.

    If one distribution's metadata is broken, ``importlib.metadata.entry_points`` fails for all of them, so it is not
    used.
    """
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name, version = "?", "?"
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            metadata = distribution.metadata
            name, version = metadata["Name"], metadata["Version"]
            if canonicalize_name(name) in seen:
                continue
            seen.add(canonicalize_name(name))
            entries = list({entry.name: entry for entry in distribution.entry_points.select(group=GROUP)}.values())
        except Exception as error:
            unread = importlib.metadata.EntryPoint("?", "?", GROUP)
            plugin = Plugin(f"{name or '?'}:?", unread, name or "?", version or "?")
            plugin.quarantine(f"its metadata cannot be read ({describe_error(error)})", traceback.format_exc())
            yield plugin
            continue
        yield from (Plugin(f"{name}:{entry.name}", entry, name, version, metadata=metadata) for entry in entries)


def incompatibility(requires: Iterable[str], version: str) -> str | None:
    """Why a plugin's own requirements exclude this version of Dovetail, or None."""
    for text in requires:
        # Parsing every requirement costs more than discovery itself, so only lines that can be ours are parsed.
        if not re.match(r"\s*dovetail(?![\w.-])", text, re.IGNORECASE):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            return f"its requirement {text!r} cannot be read"
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not requirement.specifier.contains(version, prereleases=True):
            return f"needs {requirement.name}{requirement.specifier}, found {FRAMEWORK} {version}"
    return None


def discover(filter: PluginFilter | None = None) -> list[Plugin]:
    """Import and register every permitted plugin. An error in one plugin is stored in its :class:`Plugin` and does
    not affect the others.
    """
    filter = filter or PluginFilter(os.environ.get(PLUGINS_VARIABLE, ""))
    version = framework_version()
    manager = _manager()
    plugins = []
    with watch_interrupts():
        for plugin in find_entry_points():
            plugins.append(plugin)
            if not filter.permits(plugin.distribution):
                plugin.status, plugin.reason = "denied", "excluded by the plugin filter"
            elif plugin.status == "ok":
                started, had_torch = time.perf_counter(), "torch" in sys.modules
                _register(manager, plugin, filter, version)
                plugin.seconds = time.perf_counter() - started
                plugin.imports_torch = "torch" in sys.modules and not had_torch
                raise_if_pressed()
    return sorted(plugins, key=lambda p: p.name)


def _register(manager: pluggy.PluginManager, plugin: Plugin, filter: PluginFilter, version: str) -> None:
    # A plugin may print, or leave by sys.exit, while it is imported; neither is its to do here.
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            if reason := incompatibility(plugin.requires, version):
                plugin.quarantine(reason)
                return
            with wait_for(plugin, "its import"), keep_streams():
                module = plugin.entry.load()
            if manager.is_registered(module):
                raise PluginError(
                    f"its module {plugin.entry.value} is registered by {manager.get_name(module)} already"
                )
            with wait_for(plugin, "its registration"):
                manager.register(module, plugin.name)
                cards = _collect(manager, module)
            plugin.cards = [card for card in cards if filter.permits(plugin.distribution, card.kind)]
        except BaseException as error:  # SystemExit, or what a compiled module panics with
            if is_interrupt(error):
                raise
            with contextlib.suppress(Exception):
                manager.unregister(name=plugin.name)
            plugin.quarantine(describe_error(error), "".join(traceback.format_exception(error)))


def find_cards(module: Any) -> list[Card]:
    """The cards that a plugin's module registers.

    Raises:
        PluginError: it implements no hook or an unknown one, or returns anything but a list of the right cards.
    """
    manager = _manager()
    manager.register(module)
    return _collect(manager, module)


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    return manager


def _collect(manager: pluggy.PluginManager, module: Any) -> list[Card]:
    cards: list[Card] = []
    found = False
    for attribute in dir(module):
        options = manager.parse_hookimpl_opts(module, attribute)
        if options is None:
            continue
        hook = options.get("specname") or attribute
        if hook not in HOOKS:
            raise PluginError(f"implements the unknown hook {hook!r}", f"known hooks: {', '.join(HOOKS)}")
        found = True
        answer = getattr(module, attribute)()
        if not isinstance(answer, Sequence) or isinstance(answer, str):
            raise PluginError(f"{hook} answered with {describe_type(answer)}, not a list of cards")
        for given in answer:
            base = next((known for known in HOOKS[hook] if isinstance(given, known)), None)
            if base is None:
                expected = " or ".join(c.__name__ for c in HOOKS[hook])
                raise PluginError(f"{hook} answered with {type(given).__name__} where {expected} is wanted")
            card = _check_card(base, given)
            if any(other.kind == card.kind and other.name == card.name for other in cards):
                raise PluginError(f"offers the {card.kind} {card.name!r} twice")
            cards.append(card)
    if not found:
        raise PluginError("implements no hook", "mark its functions with dovetail.api.hookimpl")
    return cards


def _check_card(base: type[Card], given: Card) -> Card:
    """The card, of the type that the hook names, with fields that were checked: one may be made past the checks of its
    class (``model_construct``, ``model_copy``), or be of a subclass that computes its attributes.

    Raises:
        PluginError: an attribute cannot be read.
        ValidationError: it is malformed.
    """
    fields: dict[str, Any] = {}
    for name in base.model_fields:
        try:
            fields[name] = getattr(given, name)
        except Exception as error:
            if isinstance(error, AttributeError) and name not in vars(given):
                continue  # it is missing, as the check will say
            told = "" if name == "name" else f" {fields.get('name')!r}"
            raise PluginError(f"the {name} of {base.__name__}{told} cannot be read: {describe_error(error)}") from error
    return base(**fields)


def import_dotted(dotted: str) -> Any:
    """Import ``"module:attribute"``.

    Raises:
        PluginError: the module or attribute does not exist, or importing it raised; with the cause chained.
    """
    module_name, _, attribute = dotted.partition(":")
    try:
        with keep_streams():
            found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise PluginError(
            f"cannot import {dotted}: {describe_error(error)}", "reinstall or update the plugin"
        ) from error
    return found


def import_part(part: Blamed, dotted: str) -> Any:
    """Import ``"module:attribute"``, which a part of a plugin names.

    Raises:
        PluginError: as :func:`import_dotted`, with the part and its distribution.
    """
    try:
        with wait_for(part, f"the import of {dotted.partition(':')[0]}"):
            return import_dotted(dotted)
    except PluginError as error:
        raise PluginError(f"the {part}: {error.problem}", way_out(part)) from error.__cause__


def import_hint(module: str) -> str:
    """What to do about a module that the user named and that cannot be imported."""
    path = Path(*module.split("."))
    if path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file():
        return "it lies in the working directory, where nothing is imported from; PYTHONPATH=. allows that"
    return "put its folder on PYTHONPATH"

"""The registry: what all plugins together offer, and how conflicts of names are resolved."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from packaging.utils import canonicalize_name

from dovetail.api.cards import Card
from dovetail.api.errors import UsageError
from dovetail.kernel.discovery import KINDS, PLUGINS_VARIABLE, Plugin, PluginFilter, discover

C = TypeVar("C", bound=Card)


@dataclass(frozen=True)
class Offer(Generic[C]):
    """A card and the distribution it came from."""

    card: C
    distribution: str
    version: str

    @property
    def name(self) -> str:
        return self.card.name

    def __str__(self) -> str:
        return f"{self.card.kind} {self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Conflict:
    """One name offered by several distributions; none of them is used."""

    kind: str
    name: str
    offers: tuple[Offer[Card], ...]

    def __str__(self) -> str:
        by = " and ".join(f"{o.distribution} {o.version}" for o in self.offers)
        return f"{self.kind} {self.name!r} is offered by {by}"

    @property
    def hint(self) -> str:
        if len({offer.distribution for offer in self.offers}) == 1:
            return f"update or uninstall {self.offers[0].distribution}"
        return f"uninstall one, or choose with --prefer {self.kind}:{self.name}={self.offers[0].distribution}"


class Registry:
    """The offers of all healthy plugins, by kind.

    Args:
        plugins: from :func:`dovetail.kernel.discovery.discover`.
        prefer: ``kind:name=distribution`` choices for names that several distributions offer.
        filter: with which they were discovered.

    Attributes:
        idle_terms: terms of the filter that match no distribution, as they were written.
    """

    def __init__(
        self, plugins: Iterable[Plugin], prefer: Sequence[str] = (), filter: PluginFilter | None = None
    ) -> None:
        self.plugins = list(plugins)
        self.idle_terms = filter.unmatched_terms(p.distribution for p in self.plugins) if filter else []
        self.conflicts: list[Conflict] = []
        by_name: dict[tuple[str, str], list[Offer[Card]]] = defaultdict(list)
        for plugin in sorted(self.plugins, key=lambda p: p.name):
            for card in plugin.cards:
                by_name[card.kind, card.name].append(Offer(card, plugin.distribution, plugin.version))
        choices = _parse_preferences(prefer)
        self._offers: dict[str, dict[str, Offer[Card]]] = {kind: {} for kind in KINDS}
        for (kind, name), offers in sorted(by_name.items()):
            wanted = choices.pop((kind, name), None)
            if wanted is not None:
                chosen = [o for o in offers if canonicalize_name(o.distribution) == wanted]
                if not chosen:
                    raise UsageError(
                        f"--prefer {kind}:{name}={wanted}: that distribution does not offer it{self._quarantine_note(wanted)}",
                        f"offered by {', '.join(o.distribution for o in offers)}",
                    )
                offers = chosen
            if len(offers) == 1:
                self._offers[kind][name] = offers[0]
            else:
                self.conflicts.append(Conflict(kind, name, tuple(offers)))
        if choices:
            (kind, name), wanted = next(iter(choices.items()))
            raise UsageError(
                f"--prefer {kind}:{name}={wanted}: no installed plugin offers it{self._quarantine_note(wanted)}",
                "see dovetail plugins list",
            )

    def _quarantine_note(self, distribution: str) -> str:
        """Why a distribution offers nothing, for a message in parentheses."""
        reasons = [p.reason for p in self.quarantined_plugins if canonicalize_name(p.distribution) == distribution]
        return f" (it is broken: {reasons[0]})" if reasons else ""

    @classmethod
    def load(cls, *, plugins: str | None = None, prefer: Sequence[str] = ()) -> Registry:
        """Discover the installed plugins. ``plugins`` is a filter that overrides ``DOVETAIL_PLUGINS``."""
        filter = PluginFilter(os.environ.get(PLUGINS_VARIABLE, "") if plugins is None else plugins)
        return cls(discover(filter), prefer, filter)

    def offers(self, card: type[C]) -> list[Offer[C]]:
        """Every usable offer of one kind, highest rank first, then by name."""
        found = cast("dict[str, Offer[C]]", self._offers[card.kind])
        return sorted(found.values(), key=lambda offer: (-offer.card.rank, offer.name))

    def get(self, card: type[C], name: str) -> Offer[C] | None:
        return cast("Offer[C] | None", self._offers[card.kind].get(name))

    def conflict(self, card: type[Card], name: str) -> Conflict | None:
        return next((c for c in self.conflicts if c.kind == card.kind and c.name == name), None)

    @property
    def quarantined_plugins(self) -> list[Plugin]:
        return [p for p in self.plugins if p.status == "quarantined"]

    def explain_missing(self, kind: str) -> str:
        """A half sentence for error messages: which broken, conflicting or excluded plugins may be why nothing of
        ``kind`` was found.
        """
        notes = [f"the broken plugin {p.distribution} may offer it ({p.reason})" for p in self.quarantined_plugins]
        notes += [f"{c}, so neither is used: {c.hint}" for c in self.conflicts if c.kind == kind]
        if denied := sorted({p.distribution for p in self.plugins if p.status == "denied"}):
            notes.append(f"the plugin filter (--plugins or {PLUGINS_VARIABLE}) leaves out {', '.join(denied)}")
        return "; ".join(f"note that {note}" for note in notes)


def _parse_preferences(prefer: Sequence[str]) -> dict[tuple[str, str], str]:
    choices: dict[tuple[str, str], str] = {}
    for text in prefer:
        subject, _, distribution = text.partition("=")
        kind, _, name = subject.partition(":")
        if not (name and distribution and kind in KINDS):
            raise UsageError(
                f"cannot read --prefer {text!r}", f"write kind:name=distribution; kinds: {', '.join(KINDS)}"
            )
        wanted = str(canonicalize_name(distribution))
        if choices.setdefault((kind, name), wanted) != wanted:
            raise UsageError(
                f"--prefer {kind}:{name} names both {choices[kind, name]} and {wanted}", "name one of them"
            )
    return choices

"""``dovetail plugins list | show NAME | doctor | new KIND NAME``."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from dovetail.api.cards import Card
from dovetail.api.errors import UsageError
from dovetail.kernel.discovery import Plugin
from dovetail.kernel.registry import Registry
from dovetail.utils.terminal import printable_json, printable_line, printable_lines

MANY = 4
"""Up to this many parts of one kind and plugin are listed one by one; more are listed in one line."""
NEAREST = 5
"""How many names are told where the given one is not there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON")
    shared.add_argument("--plugins", default=None, help="which plugins take part, as in dovetail serve --help")
    shared.add_argument(
        "--prefer", action="append", default=[], help="kind:name=distribution, for names that several offer"
    )
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    list_ = actions.add_parser("list", parents=[shared], help="what is installed, and what it offers")
    list_.add_argument(
        "--all", action="store_true", help=f"a line for each part, also where a plugin has more than {MANY} of a kind"
    )
    show = actions.add_parser(
        "show", parents=[shared], help="everything about one card, or about a plugin and all of its cards"
    )
    show.add_argument("name", help="the name of something that a plugin offers, or a distribution")
    actions.add_parser("doctor", parents=[shared], help="what is broken, and what to do; exits 1 if anything is")
    new = actions.add_parser("new", parents=[shared], help="write a new plugin package, with tests that pass")
    new.add_argument(
        "kind",
        help="model, loader, quant, attention, platform, grammar, proposer, logits-processor, tool-parser or reasoning-parser",
    )
    new.add_argument("name", help="its name, such as my-model")
    new.add_argument(
        "--architecture",
        help="of a model, as architectures in its config.json has it, such as MyModelForCausalLM (default: made from the name)",
    )
    new.add_argument("--directory", type=Path, default=Path(), help="where to write it (default: here)")


def run(args: argparse.Namespace) -> int:
    if args.action == "new":
        return _new(args)
    registry = Registry.load(plugins=args.plugins, prefer=args.prefer)
    actions = {"list": _list, "show": _show, "doctor": _doctor}
    return actions[args.action](args, registry)


def _plugin_facts(plugin: Plugin, cards: Sequence[Card] | None = None) -> dict[str, Any]:
    """What is told of a plugin, and of these of its cards, by default of all."""
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.entry.value,
        "status": plugin.status,
        "reason": plugin.reason,
        "summary": plugin.summary,
        "cards": [{"kind": c.kind, **c.model_dump(mode="json")} for c in (plugin.cards if cards is None else cards)],
    }


def _print_json(value: Any) -> None:
    print(printable_json(json.dumps(value, indent=2)))


def _print(text: str) -> None:
    """Print lines that hold what plugins say of themselves."""
    print(printable_lines(text))


def _print_line(text: str) -> None:
    print(printable_line(text))


def _one_line(summary: str) -> str:
    """What is meant to be a line, which an author may have wrapped."""
    return " ".join(summary.split())


def _list(args: argparse.Namespace, registry: Registry) -> int:
    conflicted = {(c.kind, c.name) for c in registry.conflicts}
    if args.json:
        conflicts = [
            {"kind": c.kind, "name": c.name, "distributions": [o.distribution for o in c.offers]}
            for c in registry.conflicts
        ]
        _print_json({"plugins": [_plugin_facts(p) for p in registry.plugins], "conflicts": conflicts})
        return 0
    for plugin in registry.plugins:
        _print_line(f"{plugin.distribution} {plugin.version}  {_one_line(plugin.summary)}")
        if plugin.status != "ok":
            _print_line(f"  {plugin.status}: {plugin.reason}")
        counts = Counter(card.kind for card in plugin.cards)
        for card in plugin.cards:
            note = "  (in conflict, not used)" if (card.kind, card.name) in conflicted else ""
            if args.all or counts[card.kind] <= MANY or note:
                summary = _one_line(card.summary)
                _print_line(f"  {card.kind:<10} {card.name:<16} rank {card.rank:<4} {summary}{note}")
        for kind, count in counts.items():
            if count > MANY and not args.all:
                _print_line(_names_line(kind, [card.name for card in plugin.cards if card.kind == kind]))
    for conflict in registry.conflicts:
        print(printable_line(f"warning: {conflict}, so neither is used; {conflict.hint}"), file=sys.stderr)
    return 0


def _names_line(kind: str, names: list[str]) -> str:
    """All names of a kind in one line; in a terminal, as many as fit."""
    head, text = f"  {len(names)} {kind}s: ", ", ".join(names)
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.shorten(text, max(20, width - len(head) - 1), placeholder=" … (see --all)")
    return head + text


def _show(args: argparse.Namespace, registry: Registry) -> int:
    wanted = canonicalize_name(args.name)
    found = [
        _plugin_facts(plugin)
        for plugin in registry.plugins
        if args.name == plugin.name or wanted == canonicalize_name(plugin.distribution)
    ]
    only_cards = not found
    if only_cards:
        by_plugin = ((plugin, [card for card in plugin.cards if card.name == args.name]) for plugin in registry.plugins)
        found = [_plugin_facts(plugin, cards) for plugin, cards in by_plugin if cards]
    if not found:
        known = sorted({p.distribution for p in registry.plugins} | {c.name for p in registry.plugins for c in p.cards})
        near = difflib.get_close_matches(args.name, known, NEAREST, cutoff=0.0)
        raise UsageError(
            f"wanted the plugin {args.name!r}, found {len(known)} names, the nearest {', '.join(near)}",
            "; ".join(f"note that {p.distribution} is broken ({p.reason})" for p in registry.quarantined_plugins)
            or "see dovetail plugins list",
        )
    if args.json:
        _print_json(found)
        return 0
    for facts in found:
        cards = facts.pop("cards")
        for key, value in facts.items():
            if value and not only_cards:
                _print(f"{key:<14} {value}")
        for number, card in enumerate(cards):
            if number or not only_cards:
                print()
            _print(f"{card.pop('kind')} {card.pop('name')}")
            if only_cards:
                _print(f"  {'plugin':<14} {_describe_plugin(facts)}")
            for key, value in card.items():
                if value not in (None, "", [], {}):
                    shown = ", ".join(map(str, value)) if isinstance(value, (list, dict)) else _one_line(str(value))
                    _print(f"  {key:<14} {shown}")
        print()
    return 0


def _describe_plugin(facts: dict[str, Any]) -> str:
    """A plugin in a line."""
    state = "" if facts["status"] == "ok" else f" ({facts['status']}: {facts['reason']})"
    return f"{facts['distribution']} {facts['version']}: {_one_line(facts['summary'])}{state}"


def _doctor(args: argparse.Namespace, registry: Registry) -> int:
    from dovetail.kernel.doctor import examine

    with contextlib.redirect_stdout(sys.stderr):  # plugins may print while they are imported
        findings = examine(registry)
    healthy = not any(f.severity == "error" for f in findings)
    if args.json:
        _print_json({"healthy": healthy, "findings": [f.model_dump() for f in findings]})
    else:
        for finding in findings:
            _print(str(finding))
        if args.debug:
            for plugin in registry.quarantined_plugins:
                _print(f"\n{plugin.name}\n{plugin.detail}")
        broken = {f.subject for f in findings if f.severity == "error"}
        working = sum(p.status == "ok" and p.name not in broken for p in registry.plugins)
        _print(
            f"{working} of {len(registry.plugins)} plugins load, the framework's own parts among them{'' if healthy else '; see the errors above'}"
        )
    return 0 if healthy else 1


def _new(args: argparse.Namespace) -> int:
    from dovetail.kernel.scaffold import scaffold

    path = scaffold(args.kind, args.name, args.directory, args.architecture)
    if args.json:
        _print_json({"path": str(path)})
    else:
        _print(f"wrote {path}; next: the commands in {path / 'README.md'}")
    return 0

"""``--help``: the most used options, and all options by group or by word."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from dovetail.api.errors import UsageError
from dovetail.cli.parsing.option_groups import COMMON, group_of

ALL = "all"
SHORT_FROM = 20
"""Commands with fewer options show all of them."""
COLUMN = 31
"""Column of the texts in the short help."""

Sections = dict[str, list[argparse.Action]]


class HelpAction(argparse.Action):
    """``-h``, ``--help`` and ``--help=WORD``: prints the help, and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs="?",
            default=argparse.SUPPRESS,
            metavar="WORD",
            help="show this; --help=all shows all options, --help=WORD those of a group or with that word",
        )

    def __call__(
        self, parser: argparse.ArgumentParser, _: object, values: Any, option_string: str | None = None
    ) -> None:
        print(render(parser, values), end="")
        parser.exit()


def render(parser: argparse.ArgumentParser, word: str | None = None) -> str:
    """The help of a command.

    Args:
        word: ``all``, a group, or a word in options' names and texts; None for the most used options.

    Raises:
        UsageError: the word is not found; names the groups.
    """
    found = sections(parser)
    if word is not None and word != ALL:
        chosen = search(found, word)
        if not chosen:
            raise UsageError(f"no option of {parser.prog} has {word!r}", f"the groups are: {', '.join(found)}, {ALL}")
        return _text(parser, chosen, about=False)
    if word is None and sum(map(len, found.values())) >= SHORT_FROM:
        return _text(parser, {}) + "\n" + _short(parser, found)
    return _text(parser, found)


def sections(parser: argparse.ArgumentParser) -> Sections:
    """Group → its visible arguments, in the order in which they were added."""
    found: Sections = {}
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help != argparse.SUPPRESS:
                title = (group.title or "").removeprefix("positional ")
                found.setdefault(group_of(title, action.dest), []).append(action)
    return found


def search(found: Sections, word: str) -> Sections:
    """The groups with the word in their title, complete; from the other groups, the options with the word in name or
    text.
    """
    wanted = _plain(word)
    in_title = re.compile(rf"\b{re.escape(wanted)}\b")
    chosen = {}
    for title, actions in found.items():
        hits = actions if in_title.search(_plain(title)) else [a for a in actions if wanted in _plain(_words(a))]
        if hits:
            chosen[title] = hits
    return chosen


def _plain(text: str) -> str:
    return " ".join(re.split(r"[\s_-]+", text.lower())).strip()


def _words(action: argparse.Action) -> str:
    """All texts of an argument that are searched for a word."""
    choices = [str(choice) for choice in action.choices or ()]
    commands = (
        [c.help or "" for c in action._get_subactions()] if isinstance(action, argparse._SubParsersAction) else []
    )
    return " ".join([*action.option_strings, action.dest, action.help or "", *choices, *commands])


def _line(action: argparse.Action, width: int) -> str:
    """An argument in one line, with the first part of its text."""
    flag = next((name for name in action.option_strings if name.startswith("--")), "")
    word = "" if action.nargs == 0 else str(action.metavar or action.dest).upper().rpartition("_")[2]
    head = f"  {flag} {word}".rstrip() if flag else f"  {word}"
    text = re.split(r"; |\. | \(|: |, (?:so|such|without|which|instead)\b", action.help or "")[0]
    return f"{head:<{COLUMN - 1}} {textwrap.shorten(text, width - COLUMN, placeholder=' …')}"


def _text(parser: argparse.ArgumentParser, found: Sections, about: bool = True) -> str:
    formatter = parser._get_formatter()
    formatter.add_usage(_usage(parser), [], [])
    if about:
        formatter.add_text(parser.description)
    for title, actions in found.items():
        formatter.start_section(title)
        formatter.add_arguments(actions)
        formatter.end_section()
    return formatter.format_help()


def _usage(parser: argparse.ArgumentParser) -> str:
    places: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            places.append(f"{action.metavar} …")
        elif not action.option_strings:
            name = str(action.metavar or action.dest).upper()
            places.append(f"[{name}]" if action.nargs in ("?", "*") else name)
        elif action.required:
            places.append(f"{action.option_strings[-1]} {action.metavar or action.dest.upper()}")
    return " ".join([parser.prog.replace("%", "%%"), *places, "[OPTION …]"])


def _short(parser: argparse.ArgumentParser, found: Sections) -> str:
    """The most used options, on one screen, and the list of groups."""
    width = max(40, min(shutil.get_terminal_size().columns - 2, 120))
    common = [action for actions in found.values() for action in actions if action.dest in COMMON]
    lines = [_line(action, width) for action in sorted(common, key=lambda a: COMMON.index(a.dest))]
    groups = ", ".join(f"{title} ({len(actions)})" for title, actions in found.items())
    more = f"--help=all shows every option; --help=WORD a group, or what has the word: {groups}"
    return "\n".join(["used most:", *lines, "", textwrap.fill(more, width), ""])


def add_help(parser: argparse.ArgumentParser) -> None:
    """Add :class:`HelpAction` to a parser."""
    add: Callable[..., argparse.Action] = parser.add_argument
    add("-h", "--help", action=HelpAction)

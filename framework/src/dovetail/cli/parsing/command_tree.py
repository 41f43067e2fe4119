"""The commands and their arguments as plain data, for the shell completion scripts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dovetail.cli.parsing.help import HelpAction
from dovetail.kernel.registry import Registry

OFFERED = {
    "attention_backend": "attention",
    "device": "platform",
    "load_format": "loader",
    "quantization": "format",
    "reasoning_parser": "reasoning_parser",
    "structured_outputs_backend": "grammar",
    "tool_call_parser": "tool_parser",
}
"""Option → the kind of card whose names are its values."""
BESIDE = {"tool_call_parser": ("auto", "none"), "reasoning_parser": ("auto", "none"), "quantization": ()}
"""Further values of these options; most accept ``auto``."""
PATHS = ("model", "tokenizer", "chat_template", "hf_config_path", "allowed_adapter_path", "uds", "output_json")
PATH_ENDINGS = ("_file", "_path", "_dir", "_directory", "_keyfile", "_certfile", "_ca_certs", "directory", "config")


@dataclass(frozen=True)
class Argument:
    """One argument of a command.

    Attributes:
        names: of a flag; empty for a positional argument.
        value: the name of its value in the help; empty if it has none.
        choices: its possible values, if they are known.
        path: whether its value is a file or a folder.
    """

    names: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...] = ()
    path: bool = False


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        words: the command line of the command, from the program's name on.
    """

    words: tuple[str, ...]
    help: str
    flags: list[Argument] = field(default_factory=list)
    places: list[Argument] = field(default_factory=list)
    commands: dict[str, str] = field(default_factory=dict)
    """Subcommand → what it does."""


def read_commands(
    parser: argparse.ArgumentParser, registry: Registry, words: tuple[str, ...] = ()
) -> Iterator[Command]:
    """The parser's command, and its subcommands."""
    words = words or (parser.prog,)
    command = Command(words, _first(parser.description or ""))
    yield command
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            command.commands.update({name: _first(texts.get(name, "")) for name in action.choices})
            for name, child in action.choices.items():
                yield from read_commands(child, registry, (*words, name))
        elif action.help != argparse.SUPPRESS:
            (command.flags if action.option_strings else command.places).append(_argument(action, registry))


def _argument(action: argparse.Action, registry: Registry) -> Argument:
    # --help only takes a word after "=" here: the next argument belongs to the command.
    takes_value = action.nargs != 0 and not isinstance(action, HelpAction)
    choices = tuple(map(str, action.choices or ()))
    if (kind := OFFERED.get(action.dest)) is not None:
        offered = sorted({card.name for plugin in registry.plugins for card in plugin.cards if card.kind == kind})
        choices = (*BESIDE.get(action.dest, ("auto",)), *offered)
    path = action.type is Path or action.metavar == "FILE" or action.dest in PATHS or action.dest.endswith(PATH_ENDINGS)
    if str(action.metavar) == "JSON":
        path = False
    value = str(action.metavar or action.dest).lower() if takes_value else ""
    return Argument(tuple(action.option_strings), value, _first(action.help or ""), choices, bool(path and not choices))


def _first(text: str) -> str:
    """The first part of a text, in one line."""
    return " ".join(text.replace("%%", "%").split()).split("; ")[0].partition(" (default")[0].rstrip(".")

"""``--config FILE.yaml``: flags from a file."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from dovetail.utils.known_flags import find_flag, find_positional

if TYPE_CHECKING:
    from dovetail.utils.foreign.command_line import CommandLine

from dovetail.api.text import read_text

FLAG = "--config"


class ConfigFile(argparse.Action):
    """The flag that names a file. If the parser reads files itself, the file's flags have replaced it before any
    action runs.
    """

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error(
            f"argument {FLAG}: the flags in a file are those of a command, so it stands behind the command's name"
        )


def accepts_config_files(parser: argparse.ArgumentParser) -> bool:
    """Whether this parser reads files. A parser with commands leaves that to the command's parser."""
    return not has_commands(parser) and any(isinstance(action, ConfigFile) for action in parser._actions)


def has_commands(parser: argparse.ArgumentParser) -> bool:
    """Whether the parser has commands with their own parsers."""
    return any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        FLAG,
        action=ConfigFile,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="YAML file of flags without their hyphens (max-model-len: 32k); flags of the command line come before its entries",
    )


def expand_config_files(
    parser: argparse.ArgumentParser, arguments: list[str], line: CommandLine
) -> tuple[list[str], dict[argparse.Action, str]]:
    """Replace every ``--config FILE`` by the flags in the file.

    Args:
        arguments: with the flags spelled as the parser has them.
        line: reads entries that are options of other engines, and collects refusals.

    Returns:
        The arguments, with those flags of the files that the command line does not have; and positional arguments of
            the files, which are used if the command line has none. Of several files, the last one has precedence.
    """
    rest, files = _split_off_files(parser, arguments)
    entries: dict[str, Any] = {}
    for file in files:
        entries |= line.entries(_read(parser, file), file)
    named = {_find_action(parser, a.partition("=")[0]) for a in rest if a.startswith("-")}
    before: list[str] = []
    after: list[str] = []
    places: dict[argparse.Action, str] = {}
    for key, value in entries.items():
        action, place = _find_action(parser, f"--{key}"), find_positional(parser, key)
        if action is not None and action in named:
            continue
        if place is not None:
            places[place] = _text(value)
        elif action is not None:
            flags = _to_arguments(parser, f"--{key}", action, value)
            # A flag that swallows every word behind it stands last.
            (after if _is_greedy(action) else before).extend(flags)
    return before + rest + after, places


def _split_off_files(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without those that name files, and the files."""
    rest: list[str] = []
    files: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag != FLAG:
            rest.append(argument)
        elif equals:
            files.append(value)
        elif (file := next(remaining, None)) is not None:
            files.append(file)
        else:
            parser.error(f"argument {FLAG}: expected one argument")
    return rest, files


def _read(parser: argparse.ArgumentParser, file: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped] # only where it is used: the command line answers at once

    try:
        found = yaml.safe_load(read_text(file, pipes=True))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"argument {FLAG}: {file} cannot be read: {error}")
    if not isinstance(found, dict):
        parser.error(f"argument {FLAG}: {file} holds a {type(found).__name__}, wanted entries like max-model-len: 32k")
    return {str(key): value for key, value in found.items()}


def _find_action(parser: argparse.ArgumentParser, flag: str) -> argparse.Action | None:
    """The action of a flag, or of the JSON flag of a dotted part."""
    known = find_flag(parser, flag.partition(".")[0])
    return None if known is None else parser._option_string_actions[known]


def _is_greedy(action: argparse.Action) -> bool:
    """Whether the flag takes all its values after one occurrence (nargs ``+`` or ``*``)."""
    return action.nargs in ("+", "*") and isinstance(action, argparse._StoreAction)


def _to_arguments(parser: argparse.ArgumentParser, flag: str, action: argparse.Action, value: Any) -> list[str]:
    """Convert an entry to arguments."""
    name, dot, path = flag.partition(".")
    flag = f"{find_flag(parser, name)}{dot}{path}"
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            parser.error(f"argument {flag}: {value!r} in the file is neither true nor false")
        negative = f"--no-{flag[2:]}"
        return [flag] if value else [negative] if negative in action.option_strings else []
    if isinstance(value, list) and not dot:
        texts = [_text(v) for v in value]
        if _is_greedy(action):
            return [flag, *texts]
        return [f"{flag}={text}" for text in texts]  # so that a text may begin with a hyphen
    return [f"{flag}={_text(value)}"]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list, bool)) else str(value)

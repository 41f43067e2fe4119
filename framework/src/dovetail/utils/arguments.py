"""A command-line parser that accepts flags as users of other engines write them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dovetail.utils.config_file import accepts_config_files, add_config_flag, expand_config_files
from dovetail.utils.known_flags import find_flag

if TYPE_CHECKING:
    from dovetail.utils.foreign.tables_by_command import Command

FILTER_FLAG = "--plugins"
_owners: WeakKeyDictionary[argparse._ActionsContainer, FlexibleArgumentParser] = WeakKeyDictionary()
"""Group → its parser, because argparse does not store this."""


def json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not JSON ({error}); write for example '{{\"key\": 1}}'"
        ) from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(
            f"{text!r} is a JSON {type(found).__name__}, wanted an object like '{{\"key\": 1}}'"
        )
    return found


def media_limits(text: str) -> dict[str, int]:
    """Limits of images; see :func:`~dovetail.kernel.options.parse_media_limits`."""
    from dovetail.kernel.options import parse_media_limits

    try:
        limits: dict[str, int] = parse_media_limits(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return limits


OBJECTS = (json_object, media_limits)
"""Types of flags whose value is an object: its parts may be given one by one, as ``--flag.key value``."""


class FlexibleArgumentParser(argparse.ArgumentParser):
    """An ``argparse.ArgumentParser`` that accepts more spellings.

    - ``--max_model_len`` for ``--max-model-len``, and the other way round;
    - ``--config FILE.yaml``, whose entries are flags; the command line overrides the file;
    - ``--hf-overrides.rope_scaling.factor 2`` for ``--hf-overrides '{"rope_scaling": {"factor": 2}}'``, for every flag
      with a JSON object. Values that are valid JSON are read as JSON, others as texts.

    - with :attr:`foreign`, options of other engines, as the table there says.

    Args:
        config_file: whether there is ``--config``.

    Attributes:
        foreign: which table of options of other engines it takes; see :mod:`dovetail.utils.foreign.tables_by_command`.
            The table is loaded when there is something to read, so that ``--help`` does not wait for it.
    """

    foreign: Command | None = None

    def __init__(self, *args: Any, config_file: bool = True, **kwargs: Any) -> None:
        # A shortened flag would change its meaning, or become ambiguous, with the next flag of that beginning.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        if config_file:
            add_config_flag(self)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        given = _join_denials([self._normalize_flag(a) for a in (sys.argv[1:] if args is None else args)])
        positional: dict[argparse.Action, str] = {}
        asks_help = any(argument in ("-h", "--help") or argument.startswith("--help=") for argument in given)
        if not asks_help and (self.foreign is not None or accepts_config_files(self)):
            from dovetail.utils.foreign.command_line import CommandLine
            from dovetail.utils.foreign.tables_by_command import find_table

            line = CommandLine(self, find_table(self.foreign))
            if self.foreign is not None:
                line.rewrite(given)
                given = line.arguments
            if accepts_config_files(self):
                given, positional = expand_config_files(self, given, line)
            if line.faults:
                self.refuse(line.faults)
            self.note(line.notices)
        before = {action: action.default for action in positional}
        for action, value in positional.items():
            action.default = value
        try:
            return super().parse_known_args(self._merge_dotted(given), namespace)
        finally:
            for action, default in before.items():
                action.default = default

    def add_argument_group(self, *args: Any, **kwargs: Any) -> argparse._ArgumentGroup:
        group = super().add_argument_group(*args, **kwargs)
        _owners[group] = self
        return group

    def refuse(self, faults: list[tuple[str, str]]) -> None:
        """Refuse options of other engines, all at once: (problem, hint) each."""
        self.error("; ".join(f"{problem}; {hint}" for problem, hint in faults))

    def note(self, notices: list[str]) -> None:
        """Print notices about options of other engines that need nothing here."""
        from dovetail.utils import logs

        for notice in dict.fromkeys(notices):
            logs.announce(f"note: {notice}")

    def _normalize_flag(self, argument: str) -> str:
        """The flag as it was added, whether it was typed with hyphens or underscores."""
        if not argument.startswith("--"):
            return argument
        flag, equals, value = argument.partition("=")
        flag, dot, path = flag.partition(".")
        return (find_flag(self, flag) or flag) + dot + path + equals + value

    def _merge_dotted(self, arguments: list[str]) -> list[str]:
        """Merge the dotted parts of each JSON flag to one flag with the whole object, at the place of the first part.

        Parts and whole objects are merged in their order; if two contradict each other, the later one counts.
        """
        dotted = {flag for a in arguments if (flag := self._find_json_flag(a))}
        if not dotted:
            return arguments
        objects: dict[str, dict[str, Any]] = {flag: {} for flag in dotted}
        out: list[str] = []
        rest = iter(arguments)
        for argument in rest:
            flag, equals, value = argument.partition("=")
            name, _, path = flag.partition(".")
            if not argument.startswith("--") or name not in dotted:
                out.append(argument)
                continue
            if not equals and (value := next(rest, None)) is None:  # type: ignore[assignment]
                self.error(f"argument {flag}: expected one argument")
            if name not in out:
                out.append(name)
            if path:
                _set_nested(objects[name], path.split("."), _read(value))
            else:
                try:
                    read: Any = self._option_string_actions[name].type
                    _merge(objects[name], read(value))
                except argparse.ArgumentTypeError as error:
                    self.error(f"argument {name}: {error}")
        return [f"{a}={json.dumps(objects[a])}" if a in objects else a for a in out]

    def _find_json_flag(self, argument: str) -> str | None:
        """The JSON flag of a dotted argument."""
        flag, dot, _ = argument.partition("=")[0].partition(".")
        action = self._option_string_actions.get(flag)
        return flag if dot and flag.startswith("--") and action is not None and action.type in OBJECTS else None


def use_foreign_options(parser: argparse._ActionsContainer, command: Command) -> None:
    """Make a parser, or the parser of a group, accept options of other engines. It must be a
    :class:`FlexibleArgumentParser`; others are unchanged.
    """
    owner = _owners.get(parser, parser)
    if isinstance(owner, FlexibleArgumentParser):
        owner.foreign = command


def _join_denials(arguments: list[str]) -> list[str]:
    """Rewrite ``--plugins -NAME`` to ``--plugins=-NAME``, because a term that denies is not a flag."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == FILTER_FLAG and argument.startswith("-") and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _set_nested(target: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = target.get(key)
        if not isinstance(inner, dict):
            inner = target[key] = {}
        target = inner
    target[path[-1]] = value


def _merge(target: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value

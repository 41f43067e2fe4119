"""Translates command lines with options of other engines to our flags."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dovetail.utils.foreign.option import ForeignOption, RefusedError, Table
from dovetail.utils.foreign.own_values import change_own_value
from dovetail.utils.foreign.parts import PARTS, join_parts
from dovetail.utils.foreign.translate import apply_option, did_you_mean, show_value
from dovetail.utils.known_flags import find_flag, find_positional

BOOLEANS = {"true": True, "false": False}
CONFIG_FLAG = "--config"
"""Options that a config file cannot contain."""
NULL = "None"
"""vLLM's spelling of "no value" on the command line."""
PREFIXED = re.compile(r"(-[A-Za-z]{1,4})(?:=|(?=\d))(.*)")
"""``-O3``, ``-tp=1``"""


@dataclass
class CommandLine:
    """Our arguments, translated from the typed ones.

    Attributes:
        arguments: for the parser.
        notices: a line for each option that needs nothing here.
        faults: (problem, hint) for each refused option.
        parts: values of options that are one option here and several elsewhere.
    """

    parser: argparse.ArgumentParser
    table: Table
    arguments: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)

    def rewrite(self, typed: Iterable[str]) -> None:
        """Translate all arguments. Unknown ones stay unchanged."""
        pending = list(typed)
        while pending:
            argument = pending.pop(0)
            if argument == "--":
                self.arguments += [argument, *pending]
                break
            if not argument.startswith("-") or argument == "-":
                self.arguments.append(argument)
            elif (action := self._own(argument)) is not None:
                self._take_own(action, argument, pending)
            elif (found := self._find(argument)) is not None:
                self._take(*found, pending)
            else:
                self.arguments.append(argument)
        for name, value in join_parts(self.parts).items():
            self._emit(name, value)

    def entries(self, entries: Mapping[str, Any], file: str) -> dict[str, Any]:
        """Translate the entries of a config file: names with hyphens and values as in YAML."""
        ours: dict[str, Any] = {}
        before = self.parts
        self.parts = {}
        for name, value in entries.items():
            known = find_flag(self.parser, f"--{name.partition('.')[0]}")
            if known != CONFIG_FLAG and (known is not None or find_positional(self.parser, name) is not None):
                if value is None or value == NULL:
                    continue
                own = name.partition(".")[0].replace("-", "_")
                changed, notice = change_own_value(own, value) if "." not in name else (value, "")
                if notice:
                    self.notices.append(f"{file}: {name}: {show_value(value)}: {notice}")
                if changed is not None:
                    ours[name] = changed
                continue
            if (found := self.table.find(name.partition(".")[0])) is None:
                self.faults.append(
                    (f"{file}: there is no flag --{name}{self.near(name)}", f"see {self.parser.prog} --help")
                )
                continue
            if value is None or value == NULL:
                continue
            option, denied = found
            path = name.partition(".")[2]
            given = _nested(path, value) if path else not value if denied else value
            self._apply(option, given, f"{file}: {name}: {show_value(value)}", ours)
        ours |= join_parts(self.parts)
        self.parts = before
        return ours

    def near(self, name: str) -> str:
        """`` (did you mean …?)`` for a name without leading hyphens."""
        own = [flag[2:] for flag in self.parser._option_string_actions if flag.startswith("--")]
        return did_you_mean(name.replace("_", "-"), [*own, *(o.name for o in self.table if len(o.name) > 2)]).replace(
            "mean ", "mean --"
        )

    # -- our own flags

    def _own(self, argument: str) -> argparse.Action | None:
        flag = argument.partition("=")[0]
        if flag.startswith("--"):
            flag = flag.partition(".")[0]
            known = find_flag(self.parser, flag)
            return None if known is None else self.parser._option_string_actions[known]
        return self.parser._option_string_actions.get(flag) or self.parser._option_string_actions.get(argument[:2])

    def _take_own(self, action: argparse.Action, argument: str, pending: list[str]) -> None:
        flag, equals, value = argument.partition("=")
        if action.nargs == 0:
            self._take_switch(flag, value if equals else None, pending)
            return
        # Whole values of options that a model's fields are; these are missing from the namespace unless given.
        settable = (
            action.default is argparse.SUPPRESS
            and "." not in flag
            and (not flag.startswith("-") or flag.startswith("--"))
        )
        if not settable or action.nargs is not None:
            self.arguments.append(argument)
            return
        if not equals:
            if not pending or _is_flag(pending[0]):
                self.arguments.append(argument)  # which the parser refuses
                return
            value = pending.pop(0)
        if value == NULL:
            return
        read = _read(value) if value[:1] in "{[" else value
        changed, notice = change_own_value(action.dest, read)
        if notice:
            self.notices.append(f"{flag} {show_value(value)}: {notice}")
        if isinstance(action, argparse._AppendAction) and isinstance(read, list):
            self.arguments += [f"{flag}={item}" for item in read]
        elif changed is not None:
            self.arguments.append(f"{flag}={value if changed == read else _text(changed)}")

    def _take_switch(self, flag: str, value: str | None, pending: list[str]) -> None:
        """A flag without a value, which may be written with one: ``--enable-lora=false``."""
        if value is None and pending and pending[0].lower() in BOOLEANS:
            value = pending.pop(0)
        if value is None:
            self.arguments.append(flag)
        elif value.lower() not in BOOLEANS:
            self.arguments.append(f"{flag}={value}")  # which the parser refuses
        elif BOOLEANS[value.lower()]:
            self.arguments.append(flag)
        elif (opposite := self._opposite(flag)) is not None:
            self.arguments.append(opposite)

    def _opposite(self, flag: str) -> str | None:
        other = f"--{flag[5:]}" if flag.startswith("--no-") else f"--no-{flag[2:]}"
        return other if other in self.parser._option_string_actions else None

    # -- those of others

    def _find(self, argument: str) -> tuple[ForeignOption, bool, str, str | None, str] | None:
        """(option, whether it is negated, the flag, the value after an equals sign, the path after a dot)"""
        flag, equals, value = argument.partition("=")
        name, _, path = flag.partition(".")
        if argument.startswith("--"):
            if (found := self.table.find(name[2:])) is not None:
                return *found, flag, value if equals else None, path
            return None
        if (option := self.table.find_short(name)) is not None:
            return option, False, flag, value if equals else None, path
        if (match := PREFIXED.fullmatch(argument)) and (option := self.table.find_short(match[1])) is not None:
            return option, False, match[1], match[2], ""
        return None

    def _take(
        self, option: ForeignOption, denied: bool, flag: str, value: str | None, path: str, pending: list[str]
    ) -> None:
        given: Any = value
        if option.takes == "switch":
            if given is None and pending and pending[0].lower() in BOOLEANS:
                given = pending.pop(0)
            given = BOOLEANS.get(given.lower(), given) if isinstance(given, str) else True
            given = not given if denied else given
        elif option.takes == "values":
            given = [] if given is None else [given]
            while pending and not pending[0].startswith("-"):
                given.append(pending.pop(0))
        elif given is None:
            if pending and not _is_flag(pending[0]):
                given = pending.pop(0)
            elif option.takes != "optional":
                self.faults.append((f"argument {flag}: expected one argument", f"see {self.parser.prog} --help"))
                return
        shown = flag if isinstance(given, bool) or given is None else f"{flag} {show_value(given)}"
        if isinstance(given, str):
            if given == NULL:
                return
            given = _read(given) if option.takes != "optional" else given
        if given is None:
            given = True
        self._apply(option, _nested(path, given) if path else given, shown, None)

    def _apply(self, option: ForeignOption, value: Any, shown: str, entries: dict[str, Any] | None) -> None:
        try:
            ours, notice = apply_option(option, value)
            for name, new in ours:
                self._set(name, new, entries)
        except RefusedError as refused:
            self.faults.append((f"{shown}: {refused.reason}", refused.instead))
        else:
            if notice:
                self.notices.append(f"{shown}: {notice}")

    def _set(self, name: str, value: Any, entries: dict[str, Any] | None) -> None:
        if name in PARTS:
            self.parts[name] = str(value)
            return
        option, _, path = name.partition(".")
        if "." not in name:
            value, _ = change_own_value(name, value)
        if (
            find_flag(self.parser, f"--{option.replace('_', '-')}") is None
            and find_positional(self.parser, option) is None
        ):
            flag = option.replace("_", "-")
            raise RefusedError(f"it is {flag} here, which {self.parser.prog} does not have", "leave it out")
        if entries is not None:
            entries[name.replace("_", "-") if not path else f"{option.replace('_', '-')}.{path}"] = value
        else:
            self._emit(name, value)

    def _emit(self, name: str, value: Any) -> None:
        option, _, path = name.partition(".")
        known = find_flag(self.parser, f"--{option.replace('_', '-')}")
        if known is None:
            self.arguments.append(_text(value))  # the model, which stands alone
            return
        if path and isinstance(value, Mapping) and value and not any("." in key for key in value):
            for key, inner in value.items():  # one by one, so that parts from several options come together
                self._emit(f"{name}.{key}", inner)
            return
        flag = f"{known}.{path}" if path else known
        if isinstance(value, bool) and not path:
            if value or (flag := self._opposite(known) or "") != "":
                self.arguments.append(flag)
        elif isinstance(value, list) and not path:
            self.arguments += [f"{flag}={_text(item)}" for item in value]
        else:
            self.arguments.append(f"{flag}={_text(value)}")


def _is_flag(argument: str) -> bool:
    return argument.startswith("--") or bool(re.match(r"-[A-Za-z]", argument))


def _nested(path: str, value: Any) -> Any:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return BOOLEANS.get(text.lower(), text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

"""Translates options of other engines, by name and value, to ours."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dovetail.api.errors import UsageError
from dovetail.utils.foreign.option import ForeignOption, RefusedError, Table
from dovetail.utils.foreign.own_values import change_own_value

SHOWN = 60
"""Maximum number of characters of a value in a message."""


@dataclass
class Translation:
    """The result of translating options.

    Attributes:
        options: ours, with underscores; keys of objects are nested.
        notices: a line for each option that needs nothing here.
        faults: (problem, hint) for each refused option.
    """

    options: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def check(self) -> None:
        """
        Raises:
            UsageError: options were refused; names them all.
        """
        raise_faults(self.faults)

    def add(self, name: str, value: Any) -> None:
        """Set one of our options; a dotted name sets a key inside an object.

        Raises:
            RefusedError: the object is something else, such as a callable.
        """
        *path, last = name.split(".")
        target = self.options
        for key in path:
            inner = target.get(key, {})
            if not isinstance(inner, Mapping):
                raise RefusedError(f"it goes into {key}, which is no object", f"set {last} in {key}")
            target[key] = inner = dict(inner)
            target = inner
        if isinstance(value, Mapping) and isinstance(target.get(last), Mapping):
            value = {**target[last], **value}
        target[last] = value


def raise_faults(faults: list[tuple[str, str]]) -> None:
    """
    Raises:
        UsageError: there are faults; one line for all of them.
    """
    if len(faults) == 1:
        raise UsageError(*faults[0])
    if faults:
        *most, (problem, hint) = faults
        raise UsageError("; ".join([*(f"{p} ({h})" for p, h in most), problem]), hint)


def apply_option(option: ForeignOption, value: Any) -> tuple[list[tuple[str, Any]], str]:
    """Translate one option to ours, and return the notice about it.

    Args:
        value: a Python value.

    Raises:
        RefusedError: it is refused.
    """
    if value is None:
        return [], ""
    if option.kind == "alias":
        return list(_aliased(option, value)), ""
    if option.kind == "accepted":
        if option.only is None or value in option.only:
            return [], option.notice
        raise RefusedError(option.reason, option.instead)
    if option.takes == "switch" and value is False:
        return [], ""
    if value in ("", [], {}, ()):
        return [], ""
    raise RefusedError(option.reason, option.instead)


def _aliased(option: ForeignOption, value: Any) -> Iterator[tuple[str, Any]]:
    converted = value if option.convert is None else option.convert(value)
    if option.to:
        if converted is not None:
            yield option.to, converted
    else:
        yield from converted.items()


def show_value(value: Any) -> str:
    """A value for a message, shortened if it is long."""
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def translate_keywords(given: Mapping[str, Any], own: Collection[str], table: Table, where: str = "") -> Translation:
    """Translate keyword arguments, or entries of a config file. None means the default; unknown names are faults.

    Args:
        given: names with hyphens or underscores.
        own: our options, with underscores.
        where: prefix of each message.
    """
    done = Translation()
    # Own options first, so that keys inside objects add to what is given whole.
    for name, value in sorted(given.items(), key=lambda item: item[0].replace("-", "_") not in own):
        spelled = name.replace("-", "_")
        if value is None:
            continue
        shown = f"{where}{name}={show_value(value)}"
        if spelled in own:
            changed, notice = change_own_value(spelled, value)
            if notice:
                done.notices.append(f"{shown}: {notice}")
            if changed is not None:
                done.add(spelled, changed)
            continue
        if (found := table.find(name)) is None:
            done.faults.append(
                (f"{where}there is no option {name}{did_you_mean(spelled, own)}", "docs/options.md lists them")
            )
            continue
        option, denied = found
        try:
            ours, notice = apply_option(option, value if not denied else not value)
            for to, new in ours:
                if to.partition(".")[0] not in own:
                    raise RefusedError(f"it is {to} here, which is no option of this", "leave it out")
                done.add(to, new)
        except RefusedError as refused:
            done.faults.append((f"{shown}: {refused.reason}", refused.instead))
        else:
            if notice:
                done.notices.append(f"{shown}: {notice}")
    return done


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`` (did you mean …?)``, or empty if no name is similar."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.75)
    return f" (did you mean {near[0]}?)" if near else ""

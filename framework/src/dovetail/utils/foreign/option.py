"""One option of another engine: an alias, accepted with a notice, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Takes = Literal["value", "values", "switch", "json", "optional"]
"""The values of a flag: one word, several, none (``--no-`` means false), a JSON object (or dotted parts of it), or
an optional word.
"""


FILE, FOLDER, REPOSITORY, HOST, PORT = "weight file", "weight folder", "repository", "server host", "server port"
"""Targets of aliases that are only a part of one of our options; :mod:`~dovetail.utils.foreign.parts` joins the
parts.
"""


class RefusedError(Exception):
    """An option, or one of its values, is refused."""

    def __init__(self, reason: str, instead: str) -> None:
        super().__init__(reason, instead)
        self.reason = reason
        self.instead = instead


@dataclass(frozen=True, kw_only=True)
class ForeignOption:
    """What an option of another engine becomes.

    Attributes:
        name: the flag without the two leading hyphens.
        short: other spellings, with their hyphens.
        takes: the kind of value after the flag.
        to: for an alias, our option with underscores; a dotted name is a key inside an option that is an object.
        convert: for an alias, value → our value; None drops the option. Without ``to``, value → our options by name.
        detail: for an alias, what the conversion does, for the documentation.
        notice: for an accepted option, why nothing has to be done.
        only: the accepted values; without it, all.
        reason: for a refused option, or a value outside ``only``: why.
        instead: what to do after a refusal.
    """

    name: str
    short: tuple[str, ...] = ()
    takes: Takes = "value"
    to: str = ""
    convert: Callable[[Any], Any] | None = None
    detail: str = ""
    notice: str = ""
    only: tuple[Any, ...] | None = None
    reason: str = ""
    instead: str = ""

    @property
    def kind(self) -> Literal["alias", "accepted", "refused"]:
        if self.to or self.convert is not None:
            return "alias"
        return "accepted" if self.notice else "refused"


@dataclass(frozen=True)
class OwnValue:
    """A value that other engines have for one of our own options.

    Attributes:
        name: our option, with underscores.
        values: the other engines' spelling, for the documentation.
        change: value → our value; the same value if there is nothing to change; None drops the option.
        detail: what it becomes, and why.
        notice: whether a notice is printed.
    """

    name: str
    values: tuple[str, ...]
    change: Callable[[Any], Any]
    detail: str
    notice: bool = False


class Table:
    """Options of other engines by their names.

    Args:
        options: if two have the same name, the later one counts.
    """

    def __init__(self, *options: ForeignOption | Table) -> None:
        self._options: dict[str, ForeignOption] = {}
        self._short: dict[str, ForeignOption] = {}
        for option in options:
            for each in option if isinstance(option, Table) else (option,):
                self._options[each.name] = each
                self._short |= dict.fromkeys(each.short, each)

    def __iter__(self) -> Iterator[ForeignOption]:
        return iter(self._options.values())

    def find(self, name: str) -> tuple[ForeignOption, bool] | None:
        """The option of a name without leading hyphens, spelled with hyphens or underscores, and whether the name
        negates it (``no-``).
        """
        name = name.replace("_", "-")
        if name in self._options:
            return self._options[name], False
        positive = self._options.get(name.removeprefix("no-"))
        return (positive, True) if positive is not None and positive.takes == "switch" else None

    def find_short(self, spelling: str) -> ForeignOption | None:
        """The option of a short spelling, with its hyphens."""
        return self._short.get(spelling)


def alias(
    name: str,
    to: str = "",
    *short: str,
    takes: Takes = "value",
    convert: Callable[[Any], Any] | None = None,
    detail: str = "",
) -> ForeignOption:
    return ForeignOption(name=name, short=short, takes=takes, to=to, convert=convert, detail=detail)


def accept(
    names: str,
    notice: str,
    *short: str,
    takes: Takes = "value",
    only: tuple[Any, ...] | None = None,
    reason: str = "",
    instead: str = "leave it out",
) -> Table:
    """Accepted options with a common notice. With ``only``, other values are refused with ``reason``."""
    return Table(
        *(
            ForeignOption(name=name, short=short, takes=takes, notice=notice, only=only, reason=reason, instead=instead)
            for name in names.split()
        )
    )


def refuse(names: str, reason: str, instead: str = "leave it out", *short: str, takes: Takes = "value") -> Table:
    """Refused options with a common reason."""
    return Table(
        *(ForeignOption(name=name, short=short, takes=takes, reason=reason, instead=instead) for name in names.split())
    )

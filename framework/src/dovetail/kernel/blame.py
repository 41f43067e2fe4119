"""Names the plugin whose code failed: what it is, the distribution it came from, what it was doing, and a way out.

Every call of a plugin's code is made within :func:`blame`, so an error in it ends in one line about that plugin,
whatever it raises. What it returns is checked where it arrives, with :func:`wrong_answer` for anything else than was
agreed, so that a wrong value does not fail later in code that is not to blame. No torch.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Protocol

import pluggy
from pydantic import ValidationError

from dovetail.api.errors import DovetailError, PluginError
from dovetail.api.text import one_line, quote_foreign
from dovetail.kernel.interrupts import is_interrupt, raise_if_pressed

FRAMEWORK = "dovetail"
"""The distribution of the framework's own parts."""
NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "Storage size calculation overflowed")
"""What torch says in a ``RuntimeError`` if there is no memory, besides raising ``OutOfMemoryError``."""
SHARED_PACKAGES = sys.stdlib_module_names | {"dovetail", "torch", "numpy", "pydantic", "pydantic_core", "pluggy"}
"""Packages that run in every plugin's calls: the last line outside of these is where an author looks first."""
MAX_FAULTS = 4
"""Faults of one card or configuration that a message lists."""


class Blamed(Protocol):
    """A part of a plugin: an offer of the registry, or a part of the Plan. As text it is its kind and name, and its
    distribution with the version in brackets.
    """

    @property
    def distribution(self) -> str:
        """Empty for what the user named as ``module:attribute``."""
        ...


class Named(Blamed, Protocol):
    """A part of the Plan, whose code is known."""

    @property
    def target(self) -> str:
        """``"module:attribute"``."""
        ...


class Blame:
    """A context manager for calls of one part's code; see :func:`blame`. It can be entered any number of times."""

    __slots__ = ("doing", "in_step", "others", "part")

    def __init__(self, part: Blamed, doing: str, others: Sequence[Named], in_step: bool) -> None:
        self.part = part
        self.doing = doing
        self.others = others
        self.in_step = in_step

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (is_fault(error) or (self.in_step and _is_fault_of_step(error))):
            raise_if_pressed()  # what Ctrl-C was turned into is no fault
            raise accuse(error, self.part, self.doing, self.others) from error


def blame(part: Blamed, doing: str, others: Sequence[Named] = (), *, in_step: bool = False) -> Blame:
    """Call a part's code within this.

    Args:
        doing: what it was asked for, with the tensor, layer or file, to follow "failed": ``to read the tensor x``.
        others: parts that this one calls, as a model calls kernels. The error is that of the one whose package it was
            raised in.
        in_step: the code runs in a step, where nobody is told what a plugin raises for users: a
            :class:`~dovetail.api.DovetailError` that names no part, and a ``MemoryError``, are faults, too.

    Raises:
        PluginError: the code raised anything else than a :class:`~dovetail.api.DovetailError`, the user's Ctrl-C, or
            an error for lack of memory, all of which pass unchanged.
    """
    return Blame(part, doing, others, in_step)


def accuse(error: BaseException, part: Blamed, doing: str, others: Sequence[Named] = ()) -> PluginError:
    """The error that :func:`blame` raises for what a part's code raised; the same error if it names a culprit already."""
    if isinstance(error, PluginError) and error.culprit:
        return error
    module, line = find_place(error)
    place = f" (in {module}, line {line})" if module else ""
    culprit, told = part, f"failed {doing}"
    for other in others:
        if other.distribution != part.distribution and _package(other.target) == _package(module):
            culprit, told = other, f"failed as the {part} was asked {doing}"
    found = fault_of(culprit, f"{told}: {describe_error(error)}{place}")
    found.__cause__ = error
    return found


def fault_of(part: Blamed, fault: str) -> PluginError:
    """The error for a part, with a way out.

    Args:
        fault: what it did, which follows its name.
    """
    found = PluginError(f"the {part} {fault}", way_out(part))
    found.culprit = str(part)
    return found


def is_fault(error: BaseException) -> bool:
    """Whether an error that a plugin's code raised is its fault: neither an error for users, nor the user's Ctrl-C,
    nor a lack of memory, nor the end of a generator.
    """
    return not (isinstance(error, (DovetailError, GeneratorExit)) or is_interrupt(error) or is_out_of_memory(error))


def _is_fault_of_step(error: BaseException) -> bool:
    if isinstance(error, DovetailError):
        return not (isinstance(error, PluginError) and error.culprit)
    return isinstance(error, MemoryError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's or the device's memory ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in _message(error) for words in NO_MEMORY)


def wrong_answer(part: Blamed, what: str, found: Any, wanted: str) -> PluginError:
    """The error for a part that returned something else than was agreed.

    Args:
        what: was called or asked for, such as ``attention_requirements()``.
        found: what came, of which the type is told.
        wanted: what was agreed.
    """
    return fault_of(part, f"answered {what} with {describe_type(found)}, wanted {wanted}")


def check_class(part: Blamed, dotted: str, found: Any, *bases: type) -> None:
    """
    Raises:
        PluginError: what a card names is not a subclass of one of the bases, or lacks methods.
    """
    names = " or ".join(f"{base.__module__.rpartition('.')[0]}.{base.__name__}" for base in bases)
    if not (isinstance(found, type) and issubclass(found, bases)):
        raise PluginError(f"the {part}: {dotted} is no subclass of {names}", way_out(part))
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise PluginError(f"the {part}: {dotted} lacks {', '.join(lacking)} of {names}", way_out(part))


def way_out(part: Blamed) -> str:
    """What the user can do about a part that fails."""
    if part.distribution == FRAMEWORK:
        return "this is a bug in Dovetail; --debug shows the traceback"
    if not part.distribution:
        return "correct it; --debug shows the traceback"
    return f"update it, or leave it out with --plugins=-{part.distribution}; --debug shows the traceback"


def describe_type(value: Any) -> str:
    """The type of a value that a plugin returned; of a tensor also its dtype and shape, and of a number its value. A
    coroutine is closed, so that nobody is warned that it was never awaited.
    """
    name = "None" if value is None else type(value).__name__
    if isinstance(value, Coroutine):
        value.close()
        return f"{name} (of an async def, and nothing is awaited here)"
    if isinstance(value, str) and not value.strip():
        return "an empty text"
    if type(value) in (bool, int, float):
        return f"{name} {quote_foreign(value, 40)}"
    try:
        dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    except Exception:  # its attributes are the plugin's code, too
        return name
    return f"{name} of {dtype} {list(shape)}" if isinstance(shape, tuple) else name


def describe_error(error: BaseException) -> str:
    """Describe an error in a line, for a list of errors."""
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, ValidationError):  # a card with a typo: say which field, not pydantic's whole report
        faults = error.errors()
        told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}{_found(e['type'], e['input'])}" for e in faults]
        more = f"; and {len(told) - MAX_FAULTS} more" if len(told) > MAX_FAULTS else ""
        return f"{_title(error)} is malformed: {'; '.join(told[:MAX_FAULTS])}{more}"
    lines = _message(error).strip().splitlines() or [""]
    if isinstance(error, pluggy.PluginValidationError):  # which says in its last line what is wrong
        return f"{lines[0]}: {lines[-1]}"
    return f"{type(error).__name__}: {one_line(lines[0], 400)}".rstrip(": ")


def _message(error: BaseException) -> str:
    """The error's own text, empty if it cannot be told: exceptions of plugins are plugins' code, too."""
    try:
        return str(error)
    except Exception:
        return ""


def _found(kind: str, value: Any) -> str:
    """The value at fault. Where a field is missing or too many, the message says so, and the value says nothing."""
    return "" if kind in ("missing", "extra_forbidden") else f" (found {quote_foreign(value, 60)})"


def _title(error: ValidationError) -> str:
    """The class that could not be built, with the name that cards note (:class:`dovetail.api.cards.Card`)."""
    return " ".join([error.title, *getattr(error, "__notes__", ())])


def find_place(error: BaseException) -> tuple[str, int]:
    """Where an error was raised: module and line of the innermost frame outside of :data:`SHARED_PACKAGES`, an empty
    name if there is none. A part's code calls that of other parts, so it may be in another package.
    """
    place = ("", 0)
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__")
        if isinstance(module, str) and _package(module) not in SHARED_PACKAGES:
            place = (module, line)
    return place


def _package(dotted: str) -> str:
    """The outermost package of a module, or of what it holds."""
    return dotted.partition(":")[0].partition(".")[0]

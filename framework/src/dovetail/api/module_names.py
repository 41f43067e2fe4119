"""Lists of a model's modules, as quantization configurations have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from dovetail.api.errors import ConfigError
from dovetail.api.text import quote_foreign

MAX_CHARACTERS = 500
"""Of a regular expression."""
REGEX = "re:"
HINT = "correct quantization_config in config.json, or override it with --hf-overrides"


class ModuleNames:
    """The modules that a list of a file names: ``ignore``, ``targets``, ``modules_to_not_convert``. ``name in names``
    tells whether a module is one of them.

    Each entry is a module's name, the first parts of names (``model.layers.0``, and all modules in it), the last ones
    (``lm_head``, ``mlp.gate``), or after ``re:`` a regular expression that matches from the beginning of a name, not
    necessarily to its end. Parts are what full stops separate: ``layers.1`` is no part of ``layers.10``. Regular
    expressions are run by Rust's engine, whose time is linear in the name, whatever a file says; it has no look-around
    and no backreferences.

    Args:
        entries: of the list.

    Raises:
        ConfigError: a regular expression cannot be run; names it.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        listed = list(dict.fromkeys(entries))
        self._plain = {entry for entry in listed if not entry.startswith(REGEX)}
        self._patterns = [_compile(entry.removeprefix(REGEX)) for entry in listed if entry.startswith(REGEX)]

    def __contains__(self, name: str) -> bool:
        if self._plain and any(part in self._plain for part in _ends(name)):
            return True
        return any(_matches(pattern, name) for pattern in self._patterns)


def _ends(name: str) -> Iterator[str]:
    """The name, its first parts and its last parts."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
        yield ".".join(parts[-count:])


def _compile(pattern: str) -> TypeAdapter[str]:
    """A text that matches, which pydantic compiles with the engine of Rust."""
    quoted = quote_foreign(pattern, 60)
    if len(pattern) > MAX_CHARACTERS:
        raise ConfigError(
            f"the regular expression {quoted} has {len(pattern)} characters, wanted at most {MAX_CHARACTERS}", HINT
        )
    try:
        # On its own first: an unbalanced parenthesis must not end the group around it.
        for text in (pattern, f"^(?:{pattern})"):
            found: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(pattern=text)])
    except Exception as error:  # pydantic's own, which it does not export
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("error: ").removeprefix("SchemaError: ")
        raise ConfigError(f"{quoted} is no regular expression that can be run here ({reason})", HINT) from None
    return found


def _matches(pattern: TypeAdapter[str], name: str) -> bool:
    try:
        pattern.validate_python(name)
    except ValidationError:
        return False
    return True

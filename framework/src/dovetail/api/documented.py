"""Attribute docstrings that ``help()`` shows.

Python keeps no docstring below an attribute. So a class of this base reads its own source when its ``__doc__`` is asked
for, and not before: registering cards costs nothing more.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

WIDTH = 116
if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass as _Metaclass
else:
    _Metaclass = type(BaseModel)


class _Documented(_Metaclass):
    # Not a descriptor in the class itself: ``help`` looks there without calling it.
    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return _complete(self)


class DocumentedModel(BaseModel, metaclass=_Documented):
    """A pydantic model whose docstring ends with the docstrings of its fields, and of those that it inherits."""


@cache
def _complete(cls: Any) -> str | None:
    found: dict[str, str] = {}
    for base in cls.__mro__[::-1]:
        if isinstance(base, _Documented) and base is not DocumentedModel:
            found |= attribute_docstrings(base)
    own = inspect.cleandoc(vars(cls).get("__doc__") or "")
    entries = [_entry(name, text) for name, text in found.items() if name in cls.model_fields]
    section = "Attributes:\n" + "\n".join(entries) if entries else ""
    return "\n\n".join(part for part in (own, section) if part) or None


def _entry(name: str, text: str) -> str:
    words = " ".join(text.split())
    return textwrap.fill(
        f"{name}: {words}",
        WIDTH,
        initial_indent=" " * 4,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )


def attribute_docstrings(cls: type) -> dict[str, str]:
    """Attribute → the string below it in the class's own source; empty if there is no source."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # made at run time, or without its source
        return {}
    if not isinstance(tree, ast.ClassDef):
        return {}
    found = {}
    for statement, below in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            found[statement.target.id] = below.value.value
    return found

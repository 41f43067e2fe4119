"""What ``help()`` shows of attributes."""

import inspect
import pydoc
import subprocess
import sys

import pytest

import dovetail.api
import dovetail.api.parsing
import dovetail.nn
import dovetail.testing
from dovetail.api import Card, ModelCard, ModelConfig
from dovetail.api.documented import DocumentedModel, attribute_docstrings


def test_help_shows_the_fields_of_a_card_with_their_meaning() -> None:
    text = pydoc.render_doc(ModelCard, renderer=pydoc.plaintext)
    assert "A model architecture." in text
    # Its own, and those of every card.
    assert "architectures: Names as in ``architectures`` of ``config.json``." in text
    assert "name: Lower case. Users write it in flags and ``--prefer``." in text


def exported() -> list[type]:
    modules = (dovetail.api, dovetail.api.parsing, dovetail.nn, dovetail.testing)
    found = [getattr(module, name) for module in modules for name in module.__all__]
    return [value for value in found if inspect.isclass(value)]


@pytest.mark.parametrize("cls", exported(), ids=lambda cls: cls.__name__)
def test_every_attribute_that_is_documented_is_shown(cls: type) -> None:
    shown = inspect.getdoc(cls) or ""
    assert all(f"{name}: " in shown for name in attribute_docstrings(cls))


class Fields(DocumentedModel):
    """Of a test."""

    first: int
    """Has a
    docstring.
    """
    second: int = 0


class More(Fields):
    second: int = 1
    """Is documented here."""


def test_docstrings_are_completed() -> None:
    assert Fields.__doc__ == "Of a test.\n\nAttributes:\n    first: Has a docstring."
    assert More.__doc__ == "Attributes:\n    first: Has a docstring.\n    second: Is documented here."


def test_a_class_without_source_keeps_its_docstring() -> None:
    made = type("Made", (Card,), {"__doc__": "Made at run time.", "__module__": "nowhere", "__annotations__": {}})
    assert (made.__doc__ or "").startswith("Made at run time.\n\nAttributes:\n    name: Lower case.")
    assert ModelConfig.__doc__


def test_sources_are_read_when_they_are_asked_for() -> None:
    code = "import inspect; inspect.getsource = lambda cls: exit('read'); from dovetail.api import ModelCard; print('made')"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (made.stdout, made.stderr) == ("made\n", "")
    asked = subprocess.run(
        [sys.executable, "-c", f"{code}; ModelCard.__doc__"], capture_output=True, text=True, timeout=60
    )
    assert (asked.stdout, asked.stderr) == ("made\n", "read\n")

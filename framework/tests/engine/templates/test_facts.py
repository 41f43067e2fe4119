"""What is found out about chat templates."""

from __future__ import annotations

import pytest

from dovetail.api import RequestError
from dovetail.engine.templates.facts import TemplateFacts, find_facts

ANYWHERE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
)
LOSES = (
    "{% if messages[0].role == 'system' %}<system>{{ messages[0].content }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
REPLACES = (
    "{% set said = namespace(text='') %}{% for m in messages %}{% if m.role == 'system' %}{% set said.text = m.content %}{% endif %}{% endfor %}"
    "{{ said.text }}{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turns') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
)
BROKEN = "{{ tools | length }}{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "place"),
    [
        (ANYWHERE, "anywhere"),
        (REFUSES, "first"),
        (LOSES, "first"),
        (REPLACES, "first"),
        (STRICT, "nowhere"),
        (BROKEN, "anywhere"),
    ],
)
def test_where_a_template_shows_what_the_system_says(template: str, place: str) -> None:
    assert find_facts(template).system == place


@pytest.mark.parametrize(
    ("template", "shows"),
    [
        ("{% if tools %}{{ tools | tojson }}{% endif %}", True),
        ("{% generation %}{{ tools }}{% endgeneration %}{% for m in messages %}{% break %}{% endfor %}", True),
        ("{% set tools = 1 %}{{ tools }}", False),
        ("no tools", False),
        ("{% later %}{{ tools }}", True),
        ("{% later %}", False),
    ],
)
def test_whether_it_shows_tools(template: str, shows: bool) -> None:
    assert find_facts(template).shows_tools is shows


def test_which_patterns_are_in_it() -> None:
    assert find_facts("<a><b>", ["<a>", "c", ""]) == TemplateFacts(False, "anywhere", frozenset({"<a>", ""}))


@pytest.mark.parametrize("template", ["{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{% if 1 %}" * 3000])
def test_nesting_without_end_is_an_error_of_a_line(template: str) -> None:
    with pytest.raises(RequestError, match=r"^the chat template cannot be read: RecursionError.*$") as error:
        find_facts(template)
    assert error.value.param == "chat_template"

"""What the system says reaches the model, whatever the chat template knows of it."""

from __future__ import annotations

import time

import pytest
from server_fakes import FakeEngine

from dovetail.engine.templates.chat_template import render
from dovetail.engine.templates.facts import find_system_support
from dovetail.server.tools.system_messages import join_user_turns, place_system_messages

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

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Why?"},
    {"role": "system", "content": "It is late."},
    {"role": "assistant", "content": "Because."},
    {"role": "system", "content": "Go on."},
    {"role": "user", "content": "Really?"},
    {"role": "user", "content": "Well?"},
]


def test_turns_stay_where_the_template_shows_them() -> None:
    assert place_system_messages(TURNS, "anywhere") == TURNS


@pytest.mark.parametrize("template", [REFUSES, LOSES, REPLACES])
def test_what_comes_later_is_told_by_the_user(template: str) -> None:
    placed = place_system_messages(TURNS, find_system_support(template))
    assert [(turn["role"], turn["content"]) for turn in placed] == [
        ("system", "Be brief.\n\nBe kind."),
        ("user", "Why?\n\nIt is late."),
        ("assistant", "Because."),
        ("user", "Go on.\n\nReally?\n\nWell?"),
    ]
    shown = render(template, placed)
    assert all(turn["content"] in shown for turn in TURNS)


def test_without_a_system_the_user_tells_all() -> None:
    placed = place_system_messages(TURNS[:6], "nowhere")
    assert [(turn["role"], turn["content"]) for turn in placed] == [
        ("user", "Be brief.\n\nBe kind.\n\nWhy?\n\nIt is late."),
        ("assistant", "Because."),
        ("user", "Go on."),
    ]
    render(STRICT, placed)


def test_turns_of_the_user_alone_are_left_as_they_are() -> None:
    users = [{"role": "user", "content": "Why?"}, {"role": "user", "content": "Well?"}]
    assert place_system_messages(users, "first") == users


@pytest.mark.parametrize("role", ["system", "developer"])
def test_every_route_for_conversations_does_so(ask, engine: FakeEngine, role: str) -> None:
    engine.tokenizer.chat_template = LOSES
    later = [{"role": "user", "content": "Why?"}, {"role": role, "content": "It is late."}]
    expected = [("system", "Be brief."), ("user", "Why?\n\nIt is late.")]
    for path, body in [
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": "Be brief."}, *later]}),
        ("/v1/responses", {"instructions": "Be brief.", "input": later}),
        (
            "/v1/messages",
            {"system": "Be brief.", "messages": [later[0], {**later[1], "role": "system"}], "max_tokens": 9},
        ),
    ]:
        response = ask("POST", path, json=body)
        assert response.status_code == 200, response.text
        assert [(turn["role"], turn["content"]) for turn in engine.tokenizer.last["messages"]] == expected


def test_results_told_in_words_stand_in_one_turn(chat, engine: FakeEngine) -> None:
    engine.tokenizer.chat_template = STRICT
    calls = [{"id": id, "type": "function", "function": {"name": id, "arguments": "{}"}} for id in ("a", "b")]
    response = chat(
        messages=[
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "a", "content": "one"},
            {"role": "tool", "tool_call_id": "b", "content": "two"},
            {"role": "user", "content": "Well?"},
        ]
    )
    assert response.status_code == 200, response.text
    turns = engine.tokenizer.last["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[2]["content"] == "Result of the call of a: one\n\nResult of the call of b: two\n\nWell?"
    render(STRICT, turns)


def test_many_results_in_words_cost_what_they_are_long() -> None:
    results = [({"role": "user", "content": "r" * 500}, True) for _ in range(16_000)]
    started = time.perf_counter()
    (joined,) = join_user_turns(results)
    assert time.perf_counter() - started < 5, "each was joined with all before it"
    assert len(joined["content"]) == 16_000 * 502 - 2

"""The older form of tools in the chat route: functions, their calls and results."""

from __future__ import annotations

from typing import Any

import pytest
from chat_samples import CALL, KNOWS, TOOLS, WEATHER, events, form
from fake_parsers import plan
from server_fakes import FakeEngine

from dovetail.server.settings import ServerSettings

FUNCTIONS = [tool["function"] for tool in TOOLS]
QUESTION = {"role": "user", "content": "Weather in Paris?"}
CALLED = {"name": "weather", "arguments": '{"city": "Paris"}'}
HISTORY = [
    QUESTION,
    {"role": "assistant", "content": None, "function_call": CALLED},
    {"role": "function", "name": "weather", "content": "sunny"},
]


@pytest.fixture(autouse=True)
def parsers(engine: FakeEngine) -> None:
    engine.plan.tool_parsers = (plan("Calls", "<s>"),)
    engine.tokenizer.chat_template = KNOWS


def choice(response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (made,) = response.json()["choices"]
    return made


def assembled(response) -> tuple[dict[str, Any], str]:
    """The message that a stream's deltas make, as the older clients put them together, and why it ended."""
    made: dict[str, Any] = {"content": ""}
    reason = ""
    for chunk in events(response)[:-1]:
        (shown,) = chunk["choices"]
        assert "tool_calls" not in shown["delta"]
        made["content"] += shown["delta"].get("content") or ""
        for name, piece in shown["delta"].get("function_call", {}).items():
            call = made.setdefault("function_call", {})
            call[name] = call.get(name, "") + piece
        reason = shown["finish_reason"]
    return made, reason


@pytest.mark.parametrize(
    ("asked", "reason"), [(None, "function_call"), ("auto", "function_call"), ({"name": "weather"}, "stop")]
)
def test_whole_and_streamed_agree(chat, engine: FakeEngine, asked: Any, reason: str) -> None:
    engine.words = ("I look.\n<ca", 'll>{"name": "wea', 'ther", "arguments": {"ci', 'ty": "Paris"}}', "</call>")
    body = {"functions": FUNCTIONS, "function_call": asked}
    whole = choice(chat(**body))
    assert whole["message"] == {
        "role": "assistant",
        "content": "I look.",
        "refusal": None,
        "function_call": CALLED,
    }
    assert whole["finish_reason"] == reason
    assert assembled(chat(**body, stream=True)) == ({"content": "I look.", "function_call": CALLED}, reason)


def test_the_name_comes_first_and_then_the_arguments(chat, engine: FakeEngine) -> None:
    engine.words = ('<call>{"name": "weather", "arguments": {"city": "', "Par", 'is"}}</call>')
    deltas = [chunk["choices"][0]["delta"] for chunk in events(chat(functions=FUNCTIONS, stream=True))[:-1]]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"function_call": {"name": "weather", "arguments": ""}},
        {"function_call": {"arguments": '{"city": "'}},
        {"function_call": {"arguments": "Par"}},
        {"function_call": {"arguments": 'is"}'}},
        {},
    ]


def test_an_answer_without_a_call_is_as_ever(chat, engine: FakeEngine) -> None:
    whole = choice(chat(functions=FUNCTIONS))
    assert whole["message"] == choice(chat())["message"]
    assert whole["finish_reason"] == "stop"
    assert assembled(chat(functions=FUNCTIONS, stream=True)) == ({"content": whole["message"]["content"]}, "stop")


def test_a_call_that_was_cut_off_ended_for_its_length(chat, engine: FakeEngine) -> None:
    engine.words = ('<call>{"name": "weather", "arguments": {', '"city": "Paris"}}</call>')
    for asked in ("auto", {"name": "weather"}):
        body = {"functions": FUNCTIONS, "function_call": asked, "max_tokens": 1}
        assert choice(chat(**body))["finish_reason"] == "length"
        assert assembled(chat(**body, stream=True))[1] == "length"


def test_one_call_at_most(chat, engine: FakeEngine) -> None:
    engine.words = (CALL, '\n<call>{"name": "now", "arguments": {}}</call>')
    assert choice(chat(functions=FUNCTIONS))["message"]["function_call"] == CALLED
    assert assembled(chat(functions=FUNCTIONS, stream=True))[0]["function_call"] == CALLED


def test_each_choice_has_its_call(chat, engine: FakeEngine) -> None:
    engine.words = (CALL,)
    choices = chat(functions=FUNCTIONS, n=2).json()["choices"]
    assert [made["message"]["function_call"] for made in choices] == [CALLED] * 2


def test_the_model_is_told_of_functions_as_of_tools(chat, engine: FakeEngine) -> None:
    chat(tools=TOOLS)
    wanted = engine.tokenizer.last
    chat(functions=FUNCTIONS)
    assert engine.tokenizer.last == wanted
    assert wanted["tools"]
    chat(functions=FUNCTIONS, function_call="none")
    assert engine.tokenizer.last["tools"] is None


def test_a_name_is_held_to_its_notation(chat, engine: FakeEngine) -> None:
    engine.words = (CALL,)
    chat(functions=FUNCTIONS, function_call={"name": "weather"})
    held = form(engine)
    assert held["stop_after_first"]
    assert [tag["content"]["json_schema"] for tag in held["tags"]] == [WEATHER]
    chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "weather"}})
    assert form(engine) == held


def test_what_is_left_to_the_model_is_held_to_nothing(chat, engine: FakeEngine) -> None:
    chat(functions=FUNCTIONS)
    assert engine.asked[-1][1].structured_outputs is None


def test_results_belong_to_the_last_call_of_their_name(chat, engine: FakeEngine) -> None:
    again = {"role": "assistant", "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    asked = {"role": "assistant", "content": "When?", "function_call": {"name": "now", "arguments": "{}"}}
    result = {"role": "function", "name": "weather", "content": "rainy"}
    chat(messages=[*HISTORY, again, asked, result, {**result, "name": "now"}], functions=FUNCTIONS)
    _, call, sunny, second, third, rainy, noon = engine.tokenizer.last["messages"]
    ids = [turn["tool_calls"][0]["id"] for turn in (call, second, third)]
    assert len(set(ids)) == 3
    assert all(id.isalnum() and len(id) == 9 for id in ids)
    assert call == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": ids[0], "type": "function", "function": CALLED}],
    }
    assert sunny == {"role": "tool", "content": "sunny", "name": "weather", "tool_call_id": ids[0]}
    assert third["content"] == "When?"
    assert (rainy["tool_call_id"], noon["tool_call_id"]) == (ids[1], ids[2])


def test_a_result_of_a_call_in_the_newer_form(chat, engine: FakeEngine) -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": CALLED}]}
    chat(messages=[QUESTION, call, HISTORY[2]])
    assert engine.tokenizer.last["messages"][2]["tool_call_id"] == "c1"


@pytest.mark.parametrize("content", [None, ""])
def test_a_result_may_be_empty_and_its_call_forgotten(chat, engine: FakeEngine, content: str | None) -> None:
    chat(messages=[QUESTION, {"role": "function", "name": "weather", "content": content}])
    turn = engine.tokenizer.last["messages"][1]
    assert (turn["role"], turn["name"], turn["content"]) == ("tool", "weather", "")


def test_a_template_without_tools_is_told_of_calls_in_words(chat, engine: FakeEngine) -> None:
    engine.tokenizer.chat_template = "{{ messages }}"
    chat(messages=HISTORY, functions=FUNCTIONS)
    system, _, call, result = engine.tokenizer.last["messages"]
    assert system["content"].startswith("You may call functions.")
    assert call == {"role": "assistant", "content": CALL}
    assert result == {"role": "user", "content": "Result of the call of weather: sunny"}


def test_conversations_on_other_routes_may_hold_them(ask, engine: FakeEngine) -> None:
    assert ask("POST", "/tokenize", json={"messages": HISTORY}).status_code == 200
    assert [turn["role"] for turn in engine.tokenizer.last["messages"]] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("asks_for_nothing", [None, "none", "auto"])
def test_what_asks_for_nothing(chat, engine: FakeEngine, asks_for_nothing: str | None) -> None:
    engine.words = (CALL,)
    whole = choice(chat(functions=[], function_call=asks_for_nothing))
    assert (whole["message"]["content"], whole["finish_reason"]) == (CALL, "stop")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"functions": FUNCTIONS, "tools": TOOLS}, "functions", "the older form"),
        ({"functions": FUNCTIONS, "tool_choice": "auto"}, "functions", "tool_choice of the newer"),
        ({"function_call": "none", "tools": TOOLS}, "function_call", "tools of the newer"),
        ({"function_call": {"name": "now"}, "tool_choice": "none"}, "function_call", "the older form"),
        ({"function_call": {"name": "now"}}, "function_call", "has no functions"),
        ({"function_call": {"name": "now"}, "functions": []}, "function_call", "has no functions"),
        ({"functions": FUNCTIONS, "parallel_tool_calls": True}, "parallel_tool_calls", "one at most"),
        ({"functions": [*FUNCTIONS, FUNCTIONS[0]]}, "functions[2].name", "functions[2].name 'weather' is given twice"),
        ({"functions": [{"name": "a b"}]}, "functions[0].name", "pattern"),
        ({"functions": [{"description": "nameless"}]}, "functions[0].name", "required"),
        ({"functions": TOOLS}, "functions[0].name", "required"),
        ({"functions": {"name": "now"}}, "functions", "list"),
        (
            {"functions": [{"name": "a", "parameters": {"type": "array"}}]},
            "functions[0].parameters",
            "functions[0].parameters: wanted a schema of an object",
        ),
        ({"functions": FUNCTIONS, "function_call": {"name": "x"}}, "function_call", "function_call names x"),
        ({"functions": FUNCTIONS, "function_call": "required"}, "function_call", "'none' or 'auto'"),
        ({"functions": FUNCTIONS, "function_call": {}}, "function_call.name", "required"),
        ({"messages": [{"role": "function", "content": "sunny"}]}, "messages[0].name", "required"),
        (
            {"messages": [QUESTION, {**HISTORY[1], "tool_calls": [{"function": CALLED}]}]},
            "messages[1].function_call",
            "one of them",
        ),
        ({"messages": [{"role": "assistant", "function_call": {}}]}, "messages[0].function_call.name", "required"),
    ],
)
def test_errors_speak_of_what_was_sent(chat, engine: FakeEngine, body: dict[str, Any], param: str, words: str) -> None:
    response = chat(**body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert not engine.asked


def test_deciding_can_be_switched_off(ask) -> None:
    body = {"messages": [QUESTION], "functions": FUNCTIONS}
    settings = ServerSettings(enable_auto_tool_choice=False)
    refused = ask("POST", "/v1/chat/completions", settings=settings, json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "function_call"
    body["function_call"] = {"name": "now"}
    assert ask("POST", "/v1/chat/completions", settings=settings, json=body).status_code == 200

"""Tools and reasoning in the chat route: what the model is told, how it is held to it, and what is made of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_samples import CALL, KNOWS, TOOLS, WEATHER, events, form
from fake_parsers import plan
from server_fakes import FakeEngine

from dovetail.server.settings import ServerSettings


@pytest.fixture(autouse=True)
def parsers(engine: FakeEngine) -> None:
    engine.plan.tool_parsers = (plan("Calls", "<s>"),)
    engine.tokenizer.chat_template = KNOWS


def message(response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


def assembled(response) -> dict[str, Any]:
    """The message that a stream's deltas make, as clients put them together."""
    made: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    for chunk in events(response)[:-1]:
        delta = chunk["choices"][0]["delta"]
        made["content"] += delta.get("content") or ""
        made["reasoning_content"] += delta.get("reasoning_content") or ""
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(made["tool_calls"])
                made["tool_calls"].append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
            made["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        made["finish_reason"] = chunk["choices"][0]["finish_reason"]
    return made


def test_a_call_in_an_answer(chat, engine: FakeEngine) -> None:
    engine.words = ("Let me ", "see.\n<ca", 'll>{"name": "wea', 'ther", "arguments": {"ci', 'ty": "Paris"}}', "</call>")
    response = chat(tools=TOOLS)
    told = message(response)
    (call,) = told["tool_calls"]
    assert told["content"] == "Let me see."
    assert call["type"] == "function"
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert response.json()["choices"][0]["finish_reason"] == "tool_calls"
    streamed = assembled(chat(tools=TOOLS, stream=True))
    assert streamed["content"] == "Let me see."
    assert [(c["name"], c["arguments"]) for c in streamed["tool_calls"]] == [("weather", '{"city": "Paris"}')]
    assert streamed["finish_reason"] == "tool_calls"


def test_the_arguments_stream_as_they_come(chat, engine: FakeEngine) -> None:
    engine.words = ('<call>{"name": "weather", "arguments": {"city": "', "Par", "is", '"}}</call>')
    deltas = [c["choices"][0]["delta"] for c in events(chat(tools=TOOLS, stream=True))[:-1]]
    pieces = [call["function"]["arguments"] for d in deltas for call in d.get("tool_calls", ())]
    assert pieces == ["", '{"city": "', "Par", "is", '"}']


def test_what_the_template_is_told(chat, engine: FakeEngine) -> None:
    history = [
        {"role": "user", "content": "Weather in Paris?"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    assert message(chat(messages=history, tools=TOOLS))["content"]
    told = engine.tokenizer.last
    assert [tool["function"]["name"] for tool in told["tools"]] == ["weather", "now"]
    _, call, result = told["messages"]
    assert call["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert call["content"] is None
    assert result == {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "weather"}


def test_a_template_without_tools_is_told_in_words(chat, engine: FakeEngine) -> None:
    engine.tokenizer.chat_template = "{{ messages }}"
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Paris?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    chat(messages=history, tools=TOOLS)
    told = engine.tokenizer.last
    assert told["tools"] is None
    system, _, call, result = told["messages"]
    assert system["content"].startswith("Be brief.\n\nYou may call functions.")
    assert json.dumps(WEATHER) in system["content"]
    assert '<call>{"name": "weather", "arguments": {"name of an argument": …}}</call>' in system["content"]
    assert call == {"role": "assistant", "content": f"I look.\n{CALL}"}
    assert result == {"role": "user", "content": "Result of the call of weather: sunny"}


@pytest.mark.parametrize("choice", ["none", None])
def test_without_tools_to_call_nothing_is_parsed(chat, engine: FakeEngine, choice: str | None) -> None:
    engine.words = (CALL,)
    body = {"tools": TOOLS, "tool_choice": choice} if choice else {}
    told = message(chat(**body))
    assert told == {"role": "assistant", "content": CALL, "refusal": None}
    assert engine.tokenizer.last["tools"] is None


def test_required_calls_are_held_to_the_notation(chat, engine: FakeEngine) -> None:
    engine.words = (CALL,)
    assert message(chat(tools=TOOLS, tool_choice="required"))["tool_calls"][0]["function"]["name"] == "weather"
    found = form(engine)
    assert found["type"] == "tags_with_separator"
    assert found["at_least_one"]
    assert not found["stop_after_first"]
    weather, now = found["tags"]
    assert weather["begin"] == '<call>{"name": "weather", "arguments": '
    assert weather["content"] == {"type": "json_schema", "json_schema": WEATHER}
    assert weather["end"] == "}</call>"
    assert now["content"]["json_schema"] == {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("choice", "names", "single"),
    [
        ({"type": "function", "function": {"name": "now"}}, ["now"], True),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            },
            ["weather"],
            False,
        ),
    ],
)
def test_named_tools(chat, engine: FakeEngine, choice: Any, names: list[str], single: bool) -> None:
    chat(tools=TOOLS, tool_choice=choice)
    found = form(engine)
    assert [tag["begin"].split('"')[3] for tag in found["tags"]] == names
    assert found["stop_after_first"] is single
    assert len(engine.tokenizer.last["tools"]) == 2, "the prompt stays the same, and so does its prefix in the cache"


def test_where_the_notation_is_unknown_forced_calls_are_a_list(chat, engine: FakeEngine) -> None:
    engine.plan.tool_parsers = (plan("LooseCalls"),)
    engine.words = ('[{"name": "now", ', '"arguments": {}}, {"name": "weather", "arguments": {"city": "Rome"}}]')
    told = message(chat(tools=TOOLS, tool_choice="required"))
    assert [call["function"] for call in told["tool_calls"]] == [
        {"name": "now", "arguments": "{}"},
        {"name": "weather", "arguments": '{"city": "Rome"}'},
    ]
    assert told["content"] is None
    schema = form(engine)["json_schema"]
    assert schema["minItems"] == 1
    assert "maxItems" not in schema
    assert [item["properties"]["name"]["const"] for item in schema["items"]["anyOf"]] == ["weather", "now"]
    chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert form(engine)["json_schema"]["maxItems"] == 1


def test_one_call_where_only_one_may_be_made(chat, engine: FakeEngine) -> None:
    engine.words = (CALL, "\n", CALL)
    assert len(message(chat(tools=TOOLS))["tool_calls"]) == 2
    assert len(message(chat(tools=TOOLS, parallel_tool_calls=False))["tool_calls"]) == 1
    assert len(assembled(chat(tools=TOOLS, parallel_tool_calls=False, stream=True))["tool_calls"]) == 1


def test_strict_tools_are_held_to_their_schemas_if_they_are_called(chat, engine: FakeEngine) -> None:
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}, TOOLS[1]]
    chat(tools=strict)
    found = form(engine)
    assert found["type"] == "triggered_tags"
    assert found["triggers"] == ['<call>{"name": "']
    assert not found["at_least_one"]
    assert engine.asked[0][1].structured_outputs is not None
    chat(tools=TOOLS)
    assert engine.asked[-1][1].structured_outputs is None


def test_thoughts_are_parted_from_the_answer(chat, engine: FakeEngine) -> None:
    engine.plan.reasoning_parsers = (plan("Thoughts"),)
    engine.words = ("<think>\nThey ask", " for it.\n</th", "ink>\n\nParis", "!")
    told = message(chat())
    assert told["reasoning_content"] == told["reasoning"] == "They ask for it."
    assert told["content"] == "Paris!"
    streamed = assembled(chat(stream=True))
    assert (streamed["reasoning_content"], streamed["content"]) == ("They ask for it.", "Paris!")
    assert "They ask" not in chat(include_reasoning=False).text
    assert "They ask" not in chat(include_reasoning=False, stream=True).text


def test_thoughts_come_before_a_form(chat, engine: FakeEngine) -> None:
    engine.plan.reasoning_parsers = (plan("Thoughts"),)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    thoughts, answer = form(engine)["elements"]
    assert thoughts["begin"].startswith("<think>")
    assert thoughts["end"].startswith("</think>")
    assert thoughts["content"] == {"type": "any_text"}
    assert answer == {"type": "json_schema", "json_schema": schema}
    chat(structured_outputs={"choice": ["yes", "no"]})
    assert form(engine)["elements"][1]["elements"] == [
        {"type": "const_string", "value": "yes"},
        {"type": "const_string", "value": "no"},
    ]


def test_a_form_of_the_answer_beside_strict_tools(chat, engine: FakeEngine) -> None:
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    chat(tools=strict, response_format={"type": "json_object"})
    assert [part["type"] for part in form(engine)["elements"]] == ["triggered_tags", "json_schema"]


def test_the_prompt_s_end_decides_whether_thoughts_are_to_come(chat, engine: FakeEngine) -> None:
    engine.plan.reasoning_parsers = (plan("Thoughts"),)
    engine.words = ("so.</think>", "Paris")
    told = message(chat(messages=[{"role": "user", "content": "?<think>"}]))
    assert (told["reasoning_content"], told["content"]) == ("so.", "Paris")
    told = message(chat(messages=[{"role": "user", "content": "?<think></think>"}]))
    assert told["content"].startswith("so.")


def test_special_tokens_of_the_notation_are_shown(chat, engine: FakeEngine) -> None:
    chat(tools=TOOLS)
    assert engine.asked[-1][1].shown_special_tokens == [256]
    chat()
    assert engine.asked[-1][1].shown_special_tokens == []


def test_the_template_picks_the_parser(chat, engine: FakeEngine) -> None:
    engine.plan.tool_parsers = (plan("LooseCalls", recognises="no such"), plan("Calls", recognises=r"tools \}"))
    engine.words = (CALL,)
    assert message(chat(tools=TOOLS))["tool_calls"]
    engine.tokenizer.chat_template = "{{ messages if tools else 0 }}"
    assert message(chat(tools=TOOLS))["content"] == CALL


def test_what_a_model_is_told_to_write_is_read(chat, engine: FakeEngine) -> None:
    engine.plan.tool_parsers = (plan("Calls", recognises="no such"),)
    engine.tokenizer.chat_template = "{{ messages }}"
    engine.words = ("Let me see. ", '[{"name": "wea', 'ther", "arguments": {"city": "Paris"}}]')
    response = chat(tools=TOOLS)
    told = message(response)
    assert told["content"] == "Let me see."
    assert told["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert response.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert engine.asked[-1][1].structured_outputs is None
    assert assembled(chat(tools=TOOLS, stream=True))["tool_calls"][0]["name"] == "weather"
    engine.words = ("It is [as they say] sunny: {",)
    assert message(chat(tools=TOOLS))["content"] == "It is [as they say] sunny: {"
    engine.plan.tool_parsers, engine.words = (), ('[{"name": "now", "arguments": {}}]',)
    assert message(chat(tools=TOOLS))["content"] == engine.words[0]


def test_notes_of_clients_come_back_with_their_calls(chat, engine: FakeEngine) -> None:
    function = {"name": "now", "arguments": "{}", "parsed_arguments": {}, "provider_specific_fields": None}
    call = {"id": "c1", "type": "function", "function": function, "provider_specific_fields": {"a": 1}}
    noted = {"parsed": {"a": 1}, "thinking_blocks": [], "reasoning_details": [], "provider_specific_fields": {}}
    history = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [call], **noted},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    assert message(chat(messages=history, tools=TOOLS))["content"]
    shown = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    assert engine.tokenizer.last["messages"][1] == {"role": "assistant", "content": None, "tool_calls": [shown]}


@pytest.mark.parametrize("effort", ["none", "high"])
def test_effort_reaches_the_template(chat, engine: FakeEngine, effort: str) -> None:
    chat(reasoning_effort=effort)
    assert engine.tokenizer.last["reasoning_effort"] == effort
    assert engine.tokenizer.last.get("enable_thinking") is (False if effort == "none" else None)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name", "twice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
            "schema of an object",
        ),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "weather"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": TOOLS, "tool_choice": "some"}, "tool_choice", "'required'"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {}}},
            "tool_choice.function.name",
            "required",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "function"),
    ],
)
def test_offers_that_are_none(chat, body: dict[str, Any], param: str, words: str) -> None:
    response = chat(**body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


def test_deciding_can_be_switched_off(ask, engine: FakeEngine) -> None:
    settings = ServerSettings(enable_auto_tool_choice=False)
    body = {"messages": [{"role": "user", "content": "?"}], "tools": TOOLS}
    refused = ask("POST", "/v1/chat/completions", settings=settings, json=body)
    assert refused.status_code == 400
    assert "--no-enable-auto-tool-choice" in refused.json()["error"]["message"]
    body["tool_choice"] = "required"
    assert ask("POST", "/v1/chat/completions", settings=settings, json=body).status_code == 200

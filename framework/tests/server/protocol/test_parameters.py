"""Parameters that are more than a value passed on: structure, priority, salt."""

from __future__ import annotations

from typing import Any

import openai
import pydantic
import pytest
from server_fakes import FakeEngine

from dovetail.engine.request.params import StructuredOutputs

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f"],
}
NEWER_TAG = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": SCHEMA}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": SCHEMA, "strict": True},
                }
            },
            {"json": {**SCHEMA, "x-strict": True}},
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, {"json": SCHEMA}),
        ({"response_format": {"type": "json_schema", "json_schema": SCHEMA}}, {"json": SCHEMA}),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA, "name": "a"}}, {"json": SCHEMA}),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": True}}}, {"json": "true"}),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": None}}}, {"json_object": True}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, {"json": SCHEMA}),
        ({"response_format": {"type": "json_object", "schema": None}}, {"json_object": True}),
        ({"response_format": TAG}, {"structural_tag": TAG}),
        ({"response_format": NEWER_TAG}, {"structural_tag": NEWER_TAG}),
        ({"structured_outputs": {"json": SCHEMA}}, {"json": SCHEMA}),
        ({"structured_outputs": {"json": '{"type": "object"}'}}, {"json": '{"type": "object"}'}),
        ({"structured_outputs": {"regex": "a+", "json_object": False, "json": None}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"choice": ["a", "b"]}),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, {"grammar": 'start: "a"'}),
        ({"structured_outputs": {"json_object": True}}, {"json_object": True}),
        ({"structured_outputs": {"structural_tag": TAG}}, {"structural_tag": TAG}),
        ({"guided_json": SCHEMA}, {"json": SCHEMA}),
        ({"guided_regex": "a+", "response_format": {"type": "text"}}, {"regex": "a+"}),
        ({"guided_choice": ["a"]}, {"choice": ["a"]}),
        ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
        ({"structural_tag": TAG}, {"structural_tag": TAG}),
    ],
)
def test_structure(chat, complete, engine: FakeEngine, body: dict[str, Any], expected: dict[str, Any] | None) -> None:
    for send in (chat, complete):
        response = send(**body)
        assert response.status_code == 200, response.text
    wanted = None if expected is None else StructuredOutputs(**expected)
    assert [params.structured_outputs for _, params in engine.asked] == [wanted] * 2


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"response_format": "json"}, "response_format", "found 'json'"),
        ({"response_format": {}}, "response_format.type", "required"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_object'"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is required"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema",
            "found 5",
        ),
        ({"response_format": {"type": "structural_tag"}}, "response_format", "structures and triggers"),
        ({"response_format": {"type": "structural_tag", "structures": []}}, "response_format", "triggers is required"),
        ({"structured_outputs": {}}, "structured_outputs", "found none"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs", "found none"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "found regex, choice"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs", "found none"),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice", "list"),
        ({"structured_outputs": {"json": 3}}, "structured_outputs.json", "found 3"),
        ({"guided_json": True}, "guided_json", "a JSON object, or one as text, found true"),
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex", "one of them"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
            "one of them",
        ),
        ({"guided_choice": []}, "structured_outputs", "choice"),
    ],
)
def test_structures_that_are_none(chat, engine: FakeEngine, body: dict[str, Any], param: str, words: str) -> None:
    response = chat(**body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].startswith(param)
    assert words in error["message"]
    assert not engine.asked


def test_the_client_s_own_models_become_schemas(live: str, engine: FakeEngine) -> None:
    class Answer(pydantic.BaseModel):
        city: str

    engine.words = ('{"city":', ' "Paris"}')
    with openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.parse(
            model="fake/model", messages=[{"role": "user", "content": "a"}], response_format=Answer
        )
    assert answer.choices[0].message.parsed == Answer(city="Paris")
    structured = engine.asked[0][1].structured_outputs
    assert structured is not None
    assert isinstance(structured.json, dict)
    assert structured.json["properties"] == {"city": {"title": "City", "type": "string"}}


@pytest.mark.parametrize("stream", [False, True])
def test_priority_and_salt_reach_the_engine(chat, complete, engine: FakeEngine, stream: bool) -> None:
    engine.scheduling_policy = "priority"
    for send in (chat, complete):
        assert send(priority=-2, cache_salt="mine", stream=stream).status_code == 200
        assert send(priority=0, stream=stream).status_code == 200
    said = {"priority": -2, "cache_salt": "mine", "adapter": None}
    assert engine.options == [said, {"priority": 0, "cache_salt": None, "adapter": None}] * 2


def test_no_priority_is_none_under_any_policy(chat) -> None:
    assert chat(priority=0).status_code == 200


def test_logprobs_that_are_off(complete, engine: FakeEngine) -> None:
    assert complete(logprobs=False).json()["choices"][0]["logprobs"] is None
    assert complete(logprobs=True).status_code == 400
    assert engine.asked[0][1].logprobs is None


def test_logits_processors_are_named(complete, chat, engine: FakeEngine) -> None:
    for send in (complete, chat):
        assert send(logits_processors=["one", {"qualname": "two", "kwargs": {"a": 1}}]).status_code == 200
        assert engine.asked[-1][1].logits_processors == [
            {"name": "one", "args": {}},
            {"name": "two", "args": {"a": 1}},
        ]
        refused = send(logits_processors=[{"args": {}}])
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logits_processors")

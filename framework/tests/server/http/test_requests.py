"""Whatever is sent, the answer is a success or an error of the client's, never of the server's."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_fakes import FakeEngine, build_app
from starlette.testclient import TestClient

from dovetail.api.errors import RequestError
from dovetail.server.context import ServerContext
from dovetail.server.generate.job_builder import make_job
from dovetail.server.http.errors import ApiError, to_api_error
from dovetail.server.protocol.body import decode_json_object, to_utf8, validate_body
from dovetail.server.protocol.requests import ChatCompletionRequest, CompletionRequest
from dovetail.server.protocol.unsupported import UNSUPPORTED
from dovetail.server.settings import ServerSettings

MODELS = (ChatCompletionRequest, CompletionRequest)
NAMES = sorted({*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields, *UNSUPPORTED, "Single", "type"})

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries({"role": values | st.just("user"), "content": values}, optional={"name": values, "x": values})
    | values,
    max_size=3,
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NAMES, values),
        "messages": messages,
        "n": st.integers(),
        "temperature": st.floats() | st.integers(),
        "seed": st.integers(),
        "max_tokens": st.integers(),
        "stop_token_ids": st.lists(st.integers()),
    },
)


def read(raw: bytes) -> None:
    context = ServerContext.create(FakeEngine(), ServerSettings())
    for model in MODELS:
        try:
            asyncio.run(
                make_job(context, validate_body(decode_json_object(to_utf8(raw)), model, ServerSettings()), [[1, 2, 3]])
            )
        except (ApiError, RequestError) as error:
            answer = to_api_error(error)
            if not (400 <= answer.status < 500 and answer.body()):
                raise


@given(bodies)
@settings(max_examples=100, deadline=None)
def test_structured(body: object) -> None:
    read(json.dumps(body).encode())


@given(st.sampled_from(NAMES), values)
@settings(max_examples=500, deadline=None)
def test_one_field_at_a_time(name: str, value: object) -> None:
    valid = {"messages": [{"role": "user", "content": "a"}]}
    for body in ({**valid, name: value}, {"prompt": "a", name: value}, {"messages": [{"role": "user", name: value}]}):
        read(json.dumps(body).encode())


@given(st.binary(max_size=50))
@settings(max_examples=200, deadline=None)
def test_bytes(raw: bytes) -> None:
    read(raw)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 6000, "1e308", "0.1e-400", "1" + "0" * 400 + ".5"])
@pytest.mark.parametrize("name", ["temperature", "n", "seed", "max_tokens", "top_k", "prompt", "stop_token_ids"])
def test_huge_numbers(name: str, number: str) -> None:
    for value in (number, f"[{number}]"):
        read(f'{{"prompt": "a", "{name}": {value}}}'.encode())


@given(bodies)
@settings(max_examples=30, deadline=None)
def test_through_the_application(body: object) -> None:
    client = TestClient(build_app(FakeEngine(), ServerSettings()))
    for path in ("/v1/chat/completions", "/v1/completions"):
        response = client.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
        assert response.status_code < 500

"""Models, health, keys, origins, request ids and the description of the API."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from server_fakes import FakeEngine

from dovetail.server.settings import ServerSettings

KEYS = ServerSettings(api_key=["first", "sécond"])


def test_models(ask) -> None:
    settings = ServerSettings(served_model_name=["org/name", "short"])
    found = ask("GET", "/v1/models", settings=settings).json()
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == ["org/name", "short"]
    one = ask("GET", "/v1/models/org/name", settings=settings).json()
    assert one["object"] == "model"
    assert one["max_model_len"] == 512


def test_model_without_a_served_name_has_that_of_the_plan(ask) -> None:
    assert ask("GET", "/v1/models").json()["data"][0]["id"] == "fake/model"


def test_models_say_what_the_server_samples_with_by_default(ask, engine: FakeEngine) -> None:
    neutral = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": None,
    }
    assert ask("GET", "/v1/models").json()["data"][0]["default_sampling_params"] == neutral
    given = {"temperature": 0.2, "max_tokens": 64, "stop": ["END"]}
    engine.default_params = given
    assert ask("GET", "/v1/models").json()["data"][0]["default_sampling_params"] == neutral | given


def test_version_and_health(ask) -> None:
    assert ask("GET", "/version").json() == {"version": version("dovetail")}
    assert ask("GET", "/health").content == b""
    assert ask("POST", "/ping").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/version"),
        ("GET", "/ping"),
        ("GET", "/no/such/route"),
        ("GET", "/health/x"),
        ("DELETE", "/v1/models"),
    ],
)
def test_keys_are_needed_everywhere(ask, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer no"}, {"authorization": "first"}, {"authorization": "Basic first"}):
        response = ask(method, path, settings=KEYS, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert "first" not in response.text


def test_any_of_the_keys_opens(ask) -> None:
    for key in ("first", "sécond"):
        headers = {"authorization": f"Bearer {key}".encode()}
        assert ask("GET", "/v1/models", settings=KEYS, headers=headers).status_code == 200
    assert ask("GET", "/health", settings=KEYS).status_code == 200


def test_keys_are_not_shown() -> None:
    assert "first" not in repr(KEYS)


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2:3", True), ("a b", False), ("x" * 129, False), ("ä", False)])
def test_request_ids(ask, given: str, kept: bool) -> None:
    response = ask("GET", "/health", headers={"x-request-id": given.encode()})
    assert (response.headers["x-request-id"] == given) == kept
    assert response.headers.get_list("x-request-id") == [response.headers["x-request-id"]]


def test_origins(ask) -> None:
    preflight = {"origin": "http://page", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in ask("GET", "/health", headers=preflight).headers
    settings = ServerSettings(allowed_origins=["http://page"], api_key=["k"])
    answer = ask("OPTIONS", "/v1/chat/completions", headers=preflight, settings=settings)
    assert answer.status_code == 200
    refused = ask("POST", "/v1/chat/completions", headers={"origin": "http://page"}, settings=settings)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "http://page"


@pytest.mark.parametrize("path", ["/health", "/llm/health"])
def test_root_path(ask, path: str) -> None:
    settings = ServerSettings(root_path="/llm/", api_key=["k"])
    assert ask("GET", path, settings=settings).status_code == 200
    assert ask("GET", path.replace("health", "version"), settings=settings).status_code == 401


def test_description_of_the_api(ask) -> None:
    document = ask("GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"ChatCompletionRequest", "CompletionRequest", "ErrorResponse"} <= schemas.keys()
    assert "HTTPValidationError" not in schemas
    operation = document["paths"]["/v1/chat/completions"]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/ChatCompletionRequest"
    for name in _references(document):
        assert name.removeprefix("#/components/schemas/") in schemas
    assert ask("GET", "/docs").status_code == 200
    hidden = ServerSettings(disable_fastapi_docs=True)
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert ask("GET", path, settings=hidden).status_code == 404


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [name for value in node.values() for name in _references(value)]
    return [name for value in node for name in _references(value)] if isinstance(node, list) else []


def test_server_needs_no_torch(engine: FakeEngine) -> None:
    import subprocess
    import sys

    code = "import sys, dovetail.server.processes.run, dovetail.client.chat; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, dovetail.server.settings; assert not {'fastapi', 'uvicorn'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)

"""API keys: where they are taken from, how they may be shown, and that nothing but a server's health is open without one."""

from __future__ import annotations

import asyncio
import base64
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from server_fakes import FakeEngine, build_app
from starlette.routing import BaseRoute
from starlette.testclient import TestClient

from dovetail.api.errors import UsageError
from dovetail.server.http.keys import PUBLIC_PATHS, load_api_keys
from dovetail.server.settings import API_KEY_VARIABLE, FOREIGN_KEY_VARIABLE, ServerSettings

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW")


@pytest.fixture
def client() -> TestClient:
    return TestClient(build_app(FakeEngine(), ServerSettings(api_key=["first", "second"])))


def paths_of(routes: Iterable[BaseRoute]) -> Iterator[str]:
    for route in routes:
        if path := getattr(route, "path", ""):
            yield path
        router = getattr(route, "original_router", route)  # what newer versions of FastAPI keep of an included router
        yield from paths_of(getattr(router, "routes", None) or ())


async def answered(app: Any, method: str, path: str) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers of the answer to a path as it stands, which clients would tidy up before they sent it."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "query_string": b""}
    scope |= {
        "headers": [],
        "root_path": "",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("a", 1),
        "client": None,
    }
    await app({**scope, "state": {}}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("root", ["", "/llm"])
def test_every_route_needs_the_key_but_health(root: str) -> None:
    app = build_app(FakeEngine(), ServerSettings(api_key=["first"], root_path=root))
    paths = {path.replace("{model_id:path}", "a/b").replace("{", "").replace("}", "") for path in paths_of(app.routes)}
    assert {"/v1/chat/completions", "/docs", "/openapi.json", "/ping", "/health"} <= paths
    paths |= {"/", "/metrics", "/stats", "/nothing", "/v1", "/v1/messages", "/v1/files/../models", "/static/../health"}
    paths |= {
        "/health/",
        "//health",
        "/health//",
        "/healthz",
        "/Health",
        "/HEALTH",
        "/health/x",
        "/x/health",
        "/v1/health",
    }
    paths |= {
        "/health%2F",
        "/health%3F",
        "/%2e/health",
        "/./health",
        "/health%00",
        "/health;",
        "/health.",
        "/health%20",
    }
    paths |= {"/v1/../health/../v1/models", "/%2e%2e/v1/models", "/v1/models%2F", "/llm", "/llm/", "/llm/llm/health"}
    paths |= {path + "/" for path in paths} | {"/" + path for path in paths} | {path.upper() for path in paths}

    async def walk() -> None:
        for path in paths:
            if re.sub("/+", "/", unquote(path)).rstrip("/") in PUBLIC_PATHS:
                continue
            for method in METHODS:
                status, headers = await answered(app, method, root + path)
                assert status == 401, (method, path, status)
                assert headers[b"www-authenticate"]
        for path in ("/health", *(root + path + end for path in PUBLIC_PATHS for end in ("", "/", "//"))):
            assert (await answered(app, "GET", path))[0] == 200

    asyncio.run(walk())


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first"},
        {"authorization": "bearer  second "},
        {"x-api-key": "first"},
        {"api-key": "second"},
        {"authorization": basic("", "first")},
        {"authorization": basic("anybody", "second")},
        {"authorization": "Bearer none", "x-api-key": "first"},
    ],
)
def test_ways_to_show_a_key(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "first"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer firs"},
        {"authorization": "Bearer firstt"},
        {"authorization": "Bearer First"},
        {"authorization": "Bearer first second"},
        {"authorization": "Bearer first,second"},
        {"authorization": "Token first"},
        {"authorization": basic("first", "")},
        {"authorization": basic("", "")},
        {"authorization": "Basic first"},
        {"authorization": "Basic ä".encode("latin-1")},
        {"authorization": b"Bearer \xff\x00"},
        {"x-api-key": ""},
        {"x-api-key": "Bearer first"},
        {"api_key": "first"},
        {"cookie": "api-key=first"},
    ],
)
def test_what_shows_no_key(client: TestClient, headers: dict[str, Any]) -> None:
    answer = client.get("/v1/models?api-key=first&key=first", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "first" not in answer.text


def test_browsers_are_asked_for_the_key_and_programs_are_not(client: TestClient) -> None:
    for path, accept in (("/", "*/*"), ("/docs", "text/html,application/xhtml+xml")):
        assert client.get(path, headers={"accept": accept}).headers["www-authenticate"].startswith("Basic realm=")
    assert client.get("/v1/models").headers["www-authenticate"] == "Bearer"
    assert client.post("/v1/completions", headers={"accept": "text/html"}).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_routes_of_anthropic_s_api_refuse_in_its_words(client: TestClient, path: str) -> None:
    answer = client.post(path, json={})
    assert answer.status_code == 401
    error = answer.json()
    assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")
    assert set(error["error"]) == {"type", "message"}


def keys(environment: dict[str, str] | None = None, **settings: Any) -> list[str]:
    return load_api_keys(ServerSettings(**settings), {} if environment is None else environment).api_key


def test_keys_come_from_flags_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\n  e\n\nf \r\na\n")
    file.chmod(0o600)
    environment = {API_KEY_VARIABLE: " b,c  d\n", "HOME": "/"}
    assert keys(environment, api_key=["a"], api_key_file=str(file)) == ["a", "b", "c", "d", "e", "f"]
    assert environment == {"HOME": "/"}, "child processes would inherit the keys"
    assert keys() == []


def test_the_key_of_vllm_s_variable_closes_a_server_that_has_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {FOREIGN_KEY_VARIABLE: "secret", "HOME": "/"}
    assert keys(dict(environment)) == ["secret"]
    assert "clients must show the key in VLLM_API_KEY" in capsys.readouterr().err
    assert keys(environment, api_key=["a"]) == ["a"]
    told = capsys.readouterr().err
    assert "VLLM_API_KEY is set, and lets nobody in" in told
    assert "secret" not in told
    assert environment == {"HOME": "/"}
    with pytest.raises(UsageError, match=FOREIGN_KEY_VARIABLE):
        keys({FOREIGN_KEY_VARIABLE: ""})


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    file.write_text("secret")
    for mode, warned in ((0o600, False), (0o640, False), (0o644, True)):
        file.chmod(mode)
        assert stat.S_IMODE(file.stat().st_mode) == mode
        assert keys(api_key_file=str(file)) == ["secret"]
        said = capsys.readouterr().err
        assert ("every user of this machine can read" in said) == warned
        assert "secret" not in said


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "keys"
    file.write_text("a\r\nb\r\n", encoding=encoding)
    assert keys(api_key_file=str(file)) == ["a", "b"]


@pytest.mark.parametrize("text", [None, "", "# none\n\n", "two words\n", "ä\n", b"\xff\xfe"])
def test_files_without_keys_are_refused(tmp_path: Path, text: str | bytes | None) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(0o600)
    with pytest.raises(UsageError, match="keys") as error:
        keys(api_key_file=str(file))
    assert "words" not in str(error.value)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "schlüssel", "a\x00"])
def test_keys_that_nobody_could_show_are_refused(key: str) -> None:
    with pytest.raises(UsageError, match="--api-key"):
        keys(api_key=["good", key])


@pytest.mark.parametrize("value", ["", " ", ",", "ä"])
def test_an_environment_that_holds_no_key_leaves_no_server_open(value: str) -> None:
    with pytest.raises(UsageError, match=API_KEY_VARIABLE):
        keys({API_KEY_VARIABLE: value})


def test_settings_do_not_show_keys() -> None:
    assert "secret" not in repr(ServerSettings(api_key=["secret"]))

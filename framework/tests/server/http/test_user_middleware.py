"""Middleware that users bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_fakes import FakeEngine, serving

from dovetail.api import UsageError
from dovetail.server.http.user_middleware import load_middleware
from dovetail.server.settings import ServerSettings

MODULE = '''
class Shout:
    """Sees every piece of an answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def louder(message):
            if message["type"] == "http.response.body":
                message = {**message, "body": message["body"].replace(b"Paris", b"PARIS")}
            await send(message)

        await self.app(scope, receive, louder)


async def admit(request, call_next):
    key = request.headers.get("x-key", "")
    request.scope["headers"].append((b"authorization", b"Bearer " + key.encode()))
    response = await call_next(request)
    response.headers["x-seen"] = "yes"
    return response


async def broken(request, call_next):
    raise RuntimeError("secret detail")


def plain(request):
    return None


NUMBER = 7
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_layers.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("names", [["my_layers.Shout", "my_layers.admit"], ["my_layers.admit", "my_layers.Shout"]])
@pytest.mark.parametrize("stream", [False, True])
def test_classes_and_functions_see_whole_answers_and_every_piece_of_a_stream(
    engine: FakeEngine, names: list[str], stream: bool
) -> None:
    with serving(engine, ServerSettings(middleware=names, api_key=["one"])) as url:
        body = {"prompt": "a", "stream": stream}
        answer = httpx.post(f"{url}/v1/completions", json=body, headers={"x-key": "one"})
        refused = httpx.post(f"{url}/v1/completions", json=body, headers={"x-key": "two"})
    assert answer.status_code == 200
    assert "PARIS" in answer.text
    assert "Paris" not in answer.text
    assert answer.text.endswith("data: [DONE]\n\n" if stream else "}")
    assert refused.status_code == 401  # keys are checked behind them
    assert {answer.headers["x-seen"], refused.headers["x-seen"]} == {"yes"}


def test_the_last_given_sees_requests_first(module: None) -> None:
    first, second = load_middleware(["my_layers.admit", "my_layers.Shout"])
    assert (first.cls.__name__, second.cls.__name__) == ("Shout", "BaseHTTPMiddleware")  # type: ignore[attr-defined]


def test_one_that_fails_is_an_error_like_any_other(ask: Any) -> None:
    answer = ask("GET", "/v1/models", settings=ServerSettings(middleware=["my_layers.broken"]))
    assert answer.status_code == 500
    assert answer.headers["x-request-id"]
    assert "secret" not in json.dumps(answer.json())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nodots", "wanted the name of a module"),
        ("no_such_module.Class", "--middleware no_such_module.Class cannot be imported: ModuleNotFoundError"),
        ("my_broken.Class", "No module named 'no_such_package'"),
        ("my_layers.Missing", "AttributeError"),
        ("my_layers.NUMBER", "is a int; wanted a class"),
        ("my_layers.plain", "is a function; wanted a class"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        load_middleware([name])
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_of_the_working_directory_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "layers_of_the_folder.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(UsageError, match=r"it lies in the working directory.*PYTHONPATH=\. allows that"):
        load_middleware(["layers_of_the_folder.Shout"])
    monkeypatch.syspath_prepend(".")
    assert load_middleware(["layers_of_the_folder.Shout"])

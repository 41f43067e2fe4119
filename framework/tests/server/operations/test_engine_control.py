"""The routes that operate the engine, and those of its adapters."""

from __future__ import annotations

import pytest
from server_fakes import FakeEngine

from dovetail.server.settings import ServerSettings

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
ANYWHERE = ServerSettings(allowed_adapter_path=["/"])


def test_prefix_cache(ask, engine: FakeEngine) -> None:
    assert ask("POST", "/reset_prefix_cache").status_code == 200
    assert engine.calls == [("reset_prefix_cache",)]


@pytest.mark.parametrize(("query", "level"), [("", 1), ("?level=1", 1), ("?level=2", 2)])
def test_sleep(ask, complete, engine: FakeEngine, query: str, level: int) -> None:
    assert ask("POST", f"/sleep{query}").status_code == 200
    assert engine.calls == [("sleep", level)]
    assert ask("GET", "/is_sleeping").json() == {"is_sleeping": True}
    refused = complete()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_sleeping"
    assert ask("GET", "/health").status_code == 200
    assert ask("POST", "/wake_up").status_code == 200
    assert ask("GET", "/is_sleeping").json() == {"is_sleeping": False}
    assert complete().status_code == 200


@pytest.mark.parametrize("level", ["0", "3", "-1", "a", ""])
def test_levels_of_sleep_that_are_none(ask, engine: FakeEngine, level: str) -> None:
    error = ask("POST", f"/sleep?level={level}").json()["error"]
    assert (error["param"], error["type"]) == ("level", "invalid_request_error")
    assert not engine.calls


@pytest.mark.parametrize(
    ("query", "tags"),
    [("", None), ("?tags=weights", ["weights"]), ("?tags=weights&tags=kv_cache", ["weights", "kv_cache"])],
)
def test_waking_up_in_parts(ask, engine: FakeEngine, query: str, tags: list[str] | None) -> None:
    assert ask("POST", f"/wake_up{query}").status_code == 200
    assert engine.calls == [("wake_up", tags)]


def test_load(ask) -> None:
    assert ask("GET", "/load").json() == {"server_load": 0}


ROUTES = [
    ("POST", "/reset_prefix_cache"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("GET", "/is_sleeping"),
    ("GET", "/load"),
    ("POST", LOAD),
    ("POST", UNLOAD),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_they_need_the_key(ask, engine: FakeEngine, method: str, path: str) -> None:
    assert ask(method, path, settings=ServerSettings(api_key=["k"])).status_code == 401
    assert not engine.calls


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[1] != "/load"])
def test_they_need_an_engine(ask, engine: FakeEngine, method: str, path: str) -> None:
    engine.die()
    body = {"lora_name": "a", "lora_path": "/a"} if path == LOAD else {"lora_name": "a"} if path == UNLOAD else None
    assert ask(method, path, json=body).status_code == 503
    assert not engine.calls


def test_an_adapter_is_a_model(ask, complete, chat, engine: FakeEngine) -> None:
    assert ask("POST", LOAD, json={"lora_name": "poet", "lora_path": "/poet"}, settings=ANYWHERE).status_code == 200
    base, poet = ask("GET", "/v1/models").json()["data"]
    assert (base["id"], base["parent"]) == ("fake/model", None)
    assert (poet["id"], poet["parent"], poet["root"]) == ("poet", "fake/model", "/poet")
    assert ask("GET", "/v1/models/poet").json()["parent"] == "fake/model"
    for send in (complete, chat):
        assert send(model="poet").json()["model"] == "poet"
        assert send(model="fake/model").json()["model"] == "fake/model"
    assert [options["adapter"] for options in engine.options] == ["poet", None] * 2
    assert ask("POST", UNLOAD, json={"lora_name": "poet"}).status_code == 200
    assert complete(model="poet").status_code == 404
    assert len(ask("GET", "/v1/models").json()["data"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (LOAD, {"lora_name": "a"}, 400, "lora_path"),
        (LOAD, {"lora_path": "a"}, 400, "lora_name"),
        (LOAD, {"lora_name": "", "lora_path": "a"}, 400, "lora_name"),
        (LOAD, {"lora_name": 3, "lora_path": "a"}, 400, "lora_name"),
        (LOAD, {"lora_name": "fake/model", "lora_path": "a"}, 400, "lora_name"),
        (LOAD, {"lora_name": "there", "lora_path": "a"}, 400, "lora_name"),
        (LOAD, {"lora_name": "a", "lora_path": "/gone"}, 400, "lora_path"),
        (UNLOAD, {"lora_name": "absent"}, 404, "lora_name"),
        (UNLOAD, {}, 400, "lora_name"),
    ],
)
def test_adapters_that_are_none(
    ask, engine: FakeEngine, path: str, body: dict[str, object], status: int, param: str
) -> None:
    engine.adapters["there"] = "/there"
    answer = ask("POST", path, json=body, settings=ANYWHERE)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert list(engine.adapters) == ["there"]

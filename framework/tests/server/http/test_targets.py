"""The ways in which clients and proxies name a route."""

from __future__ import annotations

import json

import pytest
from raw_http import ask, post


@pytest.mark.parametrize(
    "target",
    [
        "http://a/v1/models",
        "HTTP://A:80/v1/models",
        "https://a/v1/models?limit=1#end",
        "http://user:password@a/v1/models",
        "/v1/models?limit=1",
        "/v1/models?",
        "/v1/%6dodels",
        "/v1%2Fmodels",
        "/v1/models/",
        "/v1/models//",
        "//v1/models",
        "/v1//models/?x",
    ],
)
def test_ways_to_name_a_resource(url: str, target: str) -> None:
    answer = ask(url, f"GET {target}")
    assert answer.status == 200
    assert json.loads(answer.body)["object"] == "list"


@pytest.mark.parametrize(
    "target", ["/v1/completions/", "//v1/completions", "/v1//completions//", "http://a/v1/completions/"]
)
def test_ways_to_name_a_route_keep_the_body(url: str, target: str) -> None:
    assert post(url, path=target).status == 200


def test_address_without_a_path_is_the_root(url: str) -> None:
    for target in ("http://a", "http://a?x=/y", "/"):
        assert ask(url, f"GET {target}").headers["content-type"].startswith("text/html")


def test_names_keep_their_slashes(url: str) -> None:
    for name, shown in {"/data/model": "/data/model", "a//b": "a//b", "%2Fdata%2Fmodel": "/data/model"}.items():
        answer = ask(url, f"GET /v1/models/{name}")
        assert (answer.status, f"'{shown}'" in answer.error["message"]) == (404, True)
    assert ask(url, "GET /v1/models/fake/model/").status == 200


def test_slashes_below_a_root_path(locked: str) -> None:
    for target, status in {
        "/llm/v1/models/": 200,
        "/llm//v1/models": 200,
        "/v1/models/": 200,
        "/llm/v1/nothing/": 404,
    }.items():
        assert ask(locked, f"GET {target}", "Authorization: Bearer key").status == status


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("health", 400),
        ("*", 400),
        ("http:///health", 400),
        ("/\xe9", 400),
        ("/a b", 400),
        ("/%", 404),
        ("/%00", 404),
        ("/%ff%zz", 404),
        ("/v1/../health", 404),
        ("/" + "a" * 8191, 404),
        ("/health?" + "a" * 8192, 414),
        ("/" + "a" * 100_000, 414),
        ("/" + "a" * 300_000, 414),
    ],
)
def test_targets_that_name_nothing(url: str, target: str, status: int) -> None:
    answer = ask(url, f"GET {target}")
    assert answer.status == status
    assert answer.error["message"]


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez", "/readyz", "/healthz/", "/llm/readyz"])
def test_probes_need_no_key(locked: str, path: str) -> None:
    assert [ask(locked, f"{method} {path}").status for method in ("GET", "HEAD")] == [200, 200]


def test_paths_that_browsers_and_crawlers_ask_for(url: str, locked: str) -> None:
    assert ask(url, "GET /favicon.ico").status == 204
    assert b"Disallow: /" in ask(url, "GET /robots.txt").body
    assert ask(url, "GET /v1").status == 404
    assert ask(locked, "GET /", "Authorization: Bearer key").status == 404
    for path in ("/robots.txt", "/favicon.ico", "*"):
        assert ask(locked, f"OPTIONS {path}").status == 401

"""What web pages of strangers have browsers send to a server on the same machine or network."""

from __future__ import annotations

import pytest
from raw_http import BODY
from raw_http import ask as ask_raw
from server_fakes import FakeEngine

from dovetail.server.http.middleware import CrossSiteMiddleware
from dovetail.server.settings import ServerSettings

PAGE = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
NEIGHBOUR = {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"}


@pytest.mark.parametrize("headers", [PAGE, NEIGHBOUR, {"sec-fetch-site": "cross-site"}])
@pytest.mark.parametrize("path", ["/sleep", "/reset_prefix_cache", "/v1/chat/completions"])
def test_a_page_of_another_site_can_change_nothing(ask, engine: FakeEngine, headers: dict[str, str], path: str) -> None:
    answer = ask("POST", path, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert "--allowed-origins" in answer.json()["error"]["message"]
    assert not engine.calls
    assert ask("GET", "/v1/models", headers=headers).status_code == 200  # which the page may not read


@pytest.mark.parametrize("origins", [["https://evil.example"], ["*"]])
def test_unless_its_origin_is_allowed(ask, engine: FakeEngine, origins: list[str]) -> None:
    settings = ServerSettings(allowed_origins=origins)
    answer = ask("POST", "/sleep", headers=PAGE, settings=settings)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] in ("*", "https://evil.example")
    assert ask("POST", "/sleep", headers=NEIGHBOUR, settings=settings).status_code == (200 if "*" in origins else 403)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://test", "sec-fetch-site": "same-origin"},
        {"origin": "http://other", "sec-fetch-site": "same-origin"},  # a proxy changed the host
        {"sec-fetch-site": "none"},
    ],
)
def test_own_pages_and_programs_may(ask, engine: FakeEngine, headers: dict[str, str]) -> None:
    assert ask("POST", "/sleep", headers=headers).status_code == 200
    assert engine.calls == [("sleep", 1)]


BOX = "box.lan:8000"
PROXIED = {"host": "127.0.0.1:8000"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        # From old browsers, and from all to a plain address that is not this machine's.
        ({"host": BOX, "origin": "http://box.lan:8000"}, 200),
        ({"host": BOX, "origin": "https://box.lan:8000"}, 200),  # a proxy speaks TLS
        ({"host": "BOX.lan:8000", "origin": "http://box.LAN:8000"}, 200),
        ({"host": "box.lan:80", "origin": "http://box.lan"}, 200),
        ({"host": "box.lan:443", "origin": "https://box.lan"}, 200),
        ({"host": "[fe80::1]:8000", "origin": "http://[fe80::1]:8000"}, 200),
        ({"host": BOX, "origin": "http://evil.example"}, 403),
        ({"host": BOX, "origin": "http://evil.example:8000"}, 403),
        ({"host": BOX, "origin": "http://box.lan:3000"}, 403),
        ({"host": BOX, "origin": "http://box.lan"}, 403),
        ({"host": BOX, "origin": "http://box.lan:80000"}, 403),
        ({"host": BOX, "origin": "http://sub.box.lan:8000"}, 403),
        ({"host": BOX, "origin": "http://evil.example/box.lan:8000"}, 403),
        ({"host": BOX, "origin": "http://box.lan:8000@evil.example"}, 403),
        ({"host": BOX, "origin": "ftp://box.lan:8000"}, 403),
        ({"host": BOX, "origin": "box.lan:8000"}, 403),
        ({"host": BOX, "origin": "null"}, 403),
        ({"host": BOX, "origin": "file://"}, 403),
        ({"host": BOX, "origin": "chrome-extension://abc"}, 403),
        ({"host": BOX, "origin": "http://"}, 403),
        ({"host": "", "origin": "http://evil.example"}, 403),
        ({"host": "[fe80::1]:8000", "origin": "http://[fe80::2]:8000"}, 403),
        ({"host": BOX, "origin": "http://evil.example", "sec-fetch-site": "unheard-of"}, 403),
        # Proxies tell in other headers what the client called the server, or leave out the port.
        (PROXIED | {"origin": "http://llm.example"}, 403),
        (PROXIED | {"origin": "http://llm.example", "x-forwarded-host": "llm.example"}, 200),
        (PROXIED | {"origin": "http://llm.example:81", "x-forwarded-host": "llm.example:81, inner"}, 200),
        (PROXIED | {"origin": "http://llm.example", "forwarded": 'for=1.2.3.4;Host="llm.example";proto=http'}, 200),
        (PROXIED | {"origin": "http://llm.example", "forwarded": "by=a, host=llm.example"}, 200),
        (PROXIED | {"origin": "http://evil.example", "x-forwarded-host": "llm.example"}, 403),
        (PROXIED | {"origin": "http://evil.example", "forwarded": "for=evil.example;host=llm.example"}, 403),
        ({"host": "llm.example", "origin": "http://llm.example:8080"}, 200),
        ({"host": "llm.example", "origin": "http://evil.example:8080"}, 403),
    ],
)
def test_pages_are_known_by_their_origin_where_browsers_say_no_more(
    url: str, headers: dict[str, str], expected: int
) -> None:
    lines = [f"{name.title()}: {value}" for name, value in headers.items()]
    for path in ("/sleep", "/v1/completions"):
        answer = ask_raw(url, f"POST {path}", *lines, "Content-Type: application/json", host=None, body=BODY)
        assert (answer.status == 403) == (expected == 403)
        if expected == 403:
            assert answer.error["code"] == "origin_not_allowed"
            assert all(text in answer.error["message"] for text in ("--allowed-origins", "Host"))
    assert ask_raw(url, "GET /v1/models", *lines, host=None).status == 200


def test_port_80_is_told_from_others_without_a_proxy(engine: FakeEngine) -> None:
    def refuses(origin: bytes, server: tuple[str, int | None], scheme: str = "http") -> bool:
        headers = [(b"host", b"box"), (b"origin", origin)]
        scope = {"type": "http", "method": "POST", "scheme": scheme, "server": server, "headers": headers}
        return CrossSiteMiddleware(None, []).refuses(scope)  # type: ignore[arg-type]

    assert refuses(b"http://box:3000", ("10.0.0.1", 80))
    assert not refuses(b"http://box", ("10.0.0.1", 80))
    assert not refuses(b"http://box:3000", ("/run/socket", None))
    assert refuses(b"http://box", ("10.0.0.1", 443), "https")  # who can write to the network can make such a page
    assert not refuses(b"https://box", ("10.0.0.1", 443), "https")


@pytest.mark.parametrize("origin", ["null", "http://other.lan:3000", "chrome-extension://abc"])
def test_an_allowed_origin_needs_no_comparison(ask, engine: FakeEngine, origin: str) -> None:
    settings = ServerSettings(allowed_origins=[origin])
    assert ask("POST", "/sleep", headers={"origin": origin}, settings=settings).status_code == 200
    assert ask("POST", "/sleep", headers={"origin": "http://a.lan"}, settings=settings).status_code == 403

"""What web pages of strangers have browsers send to a server on the same machine or network."""

from __future__ import annotations

import pytest
from server_fakes import FakeEngine

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
        {"sec-fetch-site": "none"},
        {"origin": "https://app.example"},
    ],
)
def test_own_pages_and_programs_may(ask, engine: FakeEngine, headers: dict[str, str]) -> None:
    assert ask("POST", "/sleep", headers=headers).status_code == 200
    assert engine.calls == [("sleep", 1)]

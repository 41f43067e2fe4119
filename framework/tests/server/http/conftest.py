"""Servers to speak raw HTTP with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from raw_http import LIMIT
from server_fakes import FakeEngine, serving

from dovetail.server.settings import ServerSettings


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeEngine(), ServerSettings(max_request_bytes=LIMIT)) as url:
        yield url


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    """A server with a key, below a path."""
    settings = ServerSettings(api_key=["key"], root_path="/llm", disable_web_page=True, max_request_bytes=LIMIT)
    with serving(FakeEngine(), settings) as url:
        yield url

"""The browser that all tests of the web page share, and the server over an engine that answers with chosen words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from dovetail.server.settings import ServerSettings

from ..browser import Page, chromium

sys.path.insert(0, str(Path(__file__).parents[2] / "framework" / "tests" / "server"))

from server_fakes import FakeEngine, serving

from .shared import Open


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=4096)


@pytest.fixture
def opened(browser: Chrome, engine: FakeEngine) -> Iterator[Open]:
    """Opens the page of a server over ``engine``. At the end nothing may have been asked of anybody else."""
    pages: list[Page] = []
    with ExitStack() as servers:

        def open_page(path: str = "/", **settings: Any) -> Page:
            url = servers.enter_context(serving(engine, ServerSettings(**settings)))
            pages.append(Page(browser, url + path))
            return pages[-1]

        yield open_page
        for page in pages:
            assert page.foreign_requests() == []
        browser.get("about:blank")  # so that it does not go on asking a server that ends

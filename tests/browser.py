"""Headless Chromium, for tests to use the web page as people do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from .serving import until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
]

needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its chromedriver")


class Page:
    """The page of one server, and what it did: its console, and every request that the browser made."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self._logs("browser"), self._logs("performance")  # what earlier pages left there
        driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The last one, which among messages is the newest."""
        until(lambda: self.all(selector))
        return self.all(selector)[-1]

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def type(self, selector: str, text: str) -> None:
        self.one(selector).clear()
        self.one(selector).send_keys(text)

    def click(self, selector: str, label: str | None = None) -> None:
        """Press a button; with a label, the last one of those that has it."""
        until(lambda: self.labelled(selector, label))
        self.labelled(selector, label)[-1].click()

    def labelled(self, selector: str, label: str | None) -> list[WebElement]:
        return [found for found in self.all(selector) if label is None or found.text == label]

    def ask(self, question: str) -> None:
        self.type("#question", question + Keys.ENTER)

    def answered(self) -> None:
        """Wait for the end of the answer that is coming."""
        until(lambda: self.all(".answer") and not self.all(".coming"))

    def until(self, condition: Callable[[], object]) -> None:
        """Wait; the page may draw anew what the condition looks at."""

        def holds() -> object:
            try:
                return condition()
            except (IndexError, StaleElementReferenceException):
                return False

        until(holds)

    def _logs(self, kind: str) -> list[dict[str, Any]]:
        return self.driver.get_log(kind)  # type: ignore[no-untyped-call, no-any-return]

    def console(self) -> list[str]:
        """What the browser complained about since the last call."""
        return [entry["message"] for entry in self._logs("browser")]

    def foreign_requests(self) -> list[str]:
        """The URLs that others than the server were asked for since the last call, or would have been but for the page's policy."""
        messages = (json.loads(entry["message"])["message"] for entry in self._logs("performance"))
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith((self.url, "data:", "chrome:"))]


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile that resolves no name: what leaves the machine fails, and is seen."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()

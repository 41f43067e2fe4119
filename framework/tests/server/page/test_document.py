"""The web page as it is sent: one document, under a policy that lets it hold nothing else."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import httpx2
import pytest
from server_fakes import FakeEngine

from dovetail.server.settings import ServerSettings

MATHML = "http://www.w3.org/1998/Math/MathML"
"""The namespace of formulas: a name, which no browser asks for."""
FOLDER = Path(str(files("dovetail.server"))) / "page"


class Elements(HTMLParser):
    """Every element with its attributes, and the texts of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and (texts := self.texts.get(self.found[-1][0])) is not None and data.strip():
            texts.append(data)


def policy_of(response: httpx2.Response) -> dict[str, str]:
    parts = response.headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (part.partition(" ") for part in parts)}


def test_it_holds_everything_it_needs(ask) -> None:
    response = ask("GET", "/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    elements = Elements(response.text)
    for tag, attributes in elements.found:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), f"{tag} {attributes}"
        assert "style" not in attributes, "the policy would not let it apply"
        assert not any(name.startswith("on") for name in attributes), f"{tag} {attributes}"
    assert len(elements.texts["script"]) == len(list(FOLDER.rglob("*.js")))
    assert len(elements.texts["style"]) == 1
    for style in elements.texts["style"]:
        assert "url(" not in style
        assert "@import" not in style
    assert "sourceMappingURL" not in response.text


def test_its_policy_lets_in_its_own_scripts_and_nothing_else(ask) -> None:
    response = ask("GET", "/")
    policy, elements = policy_of(response), Elements(response.text)
    for tag in ("script", "style"):
        hashes = [f"'sha256-{b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in elements.texts[tag]]
        assert policy[f"{tag}-src"] == " ".join(hashes)
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    assert policy["connect-src"] == "'self'"
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-dns-prefetch-control"] == "off"


def test_its_own_scripts_name_no_host_and_no_absolute_path() -> None:
    for path in FOLDER.glob("*.js"):
        text = path.read_text(encoding="utf-8").replace(MATHML, "")
        assert not re.search(r"""https?://\w|["'`]/(?!["'`])""", text), path.name
        assert "innerHTML" not in text, path.name


def test_its_libraries_come_with_their_licences() -> None:
    names = {path.name for path in (FOLDER / "vendor").iterdir()}
    assert names == {"marked.umd.js", "marked.LICENSE", "purify.min.js", "dompurify.LICENSE"}


@pytest.mark.parametrize("path", ["/", "/llm/"])
def test_it_is_found_under_the_path_of_a_proxy(ask, path: str) -> None:
    assert ask("GET", path, settings=ServerSettings(root_path="/llm")).status_code == 200


def test_head(ask) -> None:
    response = ask("HEAD", "/")
    assert response.status_code == 200
    assert int(response.headers["content-length"]) > 10_000


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.0, br", None),
        ("br", None),
        ("", None),
    ],
)
def test_it_is_compressed_for_who_takes_it(ask, accepted: str, encoding: str | None) -> None:
    response = ask("GET", "/", headers={"accept-encoding": accepted})
    assert response.headers.get("content-encoding") == encoding
    assert "accept-encoding" in response.headers["vary"].lower()
    assert response.text.endswith("</html>\n")
    if encoding:
        assert int(response.headers["content-length"]) < 75_000, "loading it stays light"


def test_it_needs_the_key(ask) -> None:
    settings = ServerSettings(api_key=["k"])
    refused = ask("GET", "/", settings=settings)
    assert refused.status_code == 401
    assert "<html" not in refused.text
    assert ask("GET", "/", settings=settings, auth=("anybody", "k")).status_code == 200


def test_it_can_be_switched_off(ask) -> None:
    assert ask("GET", "/", settings=ServerSettings(disable_web_page=True)).status_code == 404


def test_it_is_there_without_an_engine(ask, engine: FakeEngine) -> None:
    engine.die()
    assert ask("GET", "/").status_code == 200

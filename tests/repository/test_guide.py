"""The guide for plugin authors: each page's example is a package whose tests pass."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..forked import KIT, PYTEST, Forks, forks
from ..projects import ROOT

PAGES = sorted((ROOT / "docs" / "plugins").glob("*.md"))
MAX_LINES = 200


def example(page: Path) -> dict[str, str]:
    """File → text, of the Python blocks that begin with a file's name."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    found = {}
    for block in blocks:
        name, _, text = block.partition("\n")
        assert re.fullmatch(r"# [\w/]+\.py", name), f"{page.name}: a block begins with {name!r}, wanted a file's name"
        found[name.removeprefix("# ")] = text
    return found


@pytest.fixture(scope="module")
def tests() -> Iterator[Forks]:
    # Others' plugins for pytest take longer to import than the example to run.
    with forks(KIT, PYTEST, PYTHONDONTWRITEBYTECODE="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1") as running:
        yield running


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_of_a_page_passes_its_tests(page: Path, tests: Forks, tmp_path: Path) -> None:
    files = example(page)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = ["pytest", "-q", "-rs", "-p", "no:cacheprovider", tmp_path]
    done = tests.run(command, seconds=500, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = re.findall(r"^SKIPPED.*", done.stdout, re.MULTILINE)
    assert all("transformers" in line for line in skipped), skipped


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_example_is_short_and_has_tests(page: Path) -> None:
    files = example(page)
    assert any(name.startswith("test_") for name in files)
    # Its tests are not the plugin.
    lines = [line for name, text in files.items() if not name.startswith("test_") for line in text.splitlines()]
    assert len(lines) < MAX_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_example_is_tidy(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    for name, text in example(page).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for command in (("check", "--select", "B,E,F,RUF,UP,W"), ("format", "--check")):
        line_length = ("--line-length", "120")
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", *line_length, "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_guide_names_every_page() -> None:
    guide = (ROOT / "docs" / "plugins.md").read_text()
    assert PAGES
    assert [page.name for page in PAGES if f"(plugins/{page.name})" not in guide] == []

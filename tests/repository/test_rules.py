"""One test, or a few, for each rule under "What must stay true" in the design."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import SkipTest

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dovetail.api import REFERENCE, Card, ModelCard, PlatformCard, QuantFormatCard, QuantKernelCard
from dovetail.testing import check_kernel

from ..forked import KIT, Forks, forks
from ..projects import EVERY, FRAMEWORK, FRAMEWORK_SOURCE, PLUGINS, ROOT, Package

LIGHT = ("api", "kernel", "cli")
ALLOWED = {"dovetail", "pluggy", "pydantic", "packaging"}
BELOW_PYDANTIC = {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT
    )


# Rule 1: api, kernel and cli import only the standard library, pluggy, pydantic and packaging.


def light_modules() -> list[Path]:
    return [p for p in FRAMEWORK.sources() if p.relative_to(FRAMEWORK_SOURCE).parts[0] in LIGHT]


def imports_at_import_time(tree: ast.Module) -> Iterator[str]:
    """Top-level names of packages that importing the module imports: not those in functions, nor those for type checkers."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", light_modules(), ids=lambda p: str(p.relative_to(FRAMEWORK_SOURCE)))
def test_rule_1_in_the_sources(path: Path) -> None:
    found = set(imports_at_import_time(ast.parse(path.read_text())))
    assert found <= ALLOWED | set(sys.stdlib_module_names)


LOADED = """
import importlib, json, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
found = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(found - set(sys.stdlib_module_names))))
"""


def test_rule_1_in_memory() -> None:
    names = [
        ".".join(("dovetail", *p.relative_to(FRAMEWORK_SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for p in light_modules()
    ]
    done = run(LOADED, *names)
    assert done.returncode == 0, done.stderr
    found = {
        name
        for name in json.loads(done.stdout)
        if not name.startswith(("_distutils", "__editable", "_virtualenv", "_sysconfigdata"))
    }
    assert found <= ALLOWED | BELOW_PYDANTIC


COMMAND = """
import json, sys
from dovetail.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as leaving:
    code = leaving.code or 0
print(json.dumps({"code": code, "torch": "torch" in sys.modules}))
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plugins", "list"], ["plugins", "list", "--json"], ["plugins", "show", "dense"], ["serve", "--help"]],
    ids=" ".join,
)
def test_rule_1_commands_that_answer_at_once_never_import_torch(arguments: list[str]) -> None:
    done = run(COMMAND, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"code": 0, "torch": False}


def test_rule_1_a_new_plugin_is_written_without_torch(tmp_path: Path) -> None:
    code = COMMAND.replace("import json, sys", f"import json, os, sys; os.chdir({str(tmp_path)!r})")
    done = run(code, "plugins", "new", "model", "my-thing")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"code": 0, "torch": False}
    assert [p.name for p in tmp_path.iterdir()] == ["dovetail-model-my-thing"]


# Rule 2: nothing imports upward. The contracts are in .importlinter.


def contracts() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser


def test_rule_2_and_3_contracts_are_kept() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rule_2_and_3_contracts_cover_every_package() -> None:
    plugins = {p.module for p in PLUGINS}
    found = contracts()
    assert set(found["importlinter"]["root_packages"].split()) == plugins | {"dovetail"}
    assert set(found["importlinter:contract:plugins"]["modules"].split()) == plugins
    assert set(found["importlinter:contract:framework"]["forbidden_modules"].split()) == plugins
    assert set(found["importlinter:contract:inside"]["source_modules"].split()) == plugins


# Rule 3: nothing in dovetail names a plugin, or one of its models, formats or devices.

GENERIC = {
    "json": "the standard library's module, and what the server speaks",
    "openai": "whose API the server speaks, and whose library its clients use",
    "cpu": "torch's word for the host, which every platform has beside its device",
    "torch": "the library that the framework is written with",
    "transformers": "the library whose checkpoints and tokenizers are read, and models compared with",
    "cohere": "whose rerank API the server speaks",
    "fp8": "a dtype of the KV cache, as users write it",
    "llama3": "the value that published configurations give for a scaling of rotary frequencies",
}
"""Words on first-party cards that the framework may use, and why."""

ELSEWHERE = [
    "cuda",
    "mps",
    "metal",
    "rocm",
    "xpu",
    "tpu",
    "qwen",
    "deepseek",
    "mixtral",
    "glm",
    "stablelm",
    "opt",
    "smollm",
    "awq",
    "gptq",
    "marlin",
    "aqlm",
    "mxfp4",
    "nvfp4",
    "safetensors",
    "tensorrt",
]
"""Names that no first-party card bears yet, and that must not come in before or instead of a plugin."""


OTHER_NAMES = "tex_symbols.js"
"""Holds the names of TeX's symbols, among them Greek letters that models are named after."""


def card_words(card: Card) -> Iterator[str]:
    yield card.name
    if isinstance(card, ModelCard):
        yield from card.architectures
        for container, naming in card.naming.items():
            yield container
            yield from naming.architectures
    if isinstance(card, QuantFormatCard):
        yield from (name for name in card.types if not isinstance(getattr(torch, name, None), torch.dtype))
        yield from card.methods
    if isinstance(card, PlatformCard):
        yield card.device


def forbidden_words() -> set[str]:
    found = {word.lower() for plugin in PLUGINS for card in plugin.cards for word in card_words(card)}
    return (found | set(ELSEWHERE)) - set(GENERIC)


NAMED_ON_PURPOSE = {
    ("test_plugin.py", "llamaforcausallm"),
    ("parity.py", "safetensors"),
    ("gguf_naming.py", "gguf"),
    ("mistral_naming.py", "mistral"),
    ("vllm_engine.py", "mistral"),
}
"""The original that the model template is compared with, the library that writes what transformers saves, the names
that packages of families share of a container, and a value of vLLM's options.
"""


def framework_texts() -> list[Path]:
    files = (p for p in sorted(FRAMEWORK_SOURCE.rglob("*")) if p.is_file() and p.suffix != ".pyc")
    return [p for p in files if p.name != OTHER_NAMES]


def test_rule_3_no_plugin_is_named() -> None:
    modules = {p.module for p in PLUGINS} | {p.name for p in PLUGINS}
    words = re.compile(
        rf"(?<![\w-])({'|'.join(map(re.escape, sorted(forbidden_words() | modules)))})(?![\w-])", re.IGNORECASE
    )
    faults = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in framework_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in words.finditer(line)
        if (path.name, match[0].lower()) not in NAMED_ON_PURPOSE
    ]
    assert not faults


def test_rule_3_the_exceptions_are_needed() -> None:
    text = "\n".join(p.read_text(encoding="utf-8") for p in framework_texts())
    for word in GENERIC:
        assert re.search(rf"\b{word}\b", text, re.IGNORECASE), f"{word} need not be excepted any more"


# Rule 4: every plugin's tests pass with only dovetail and that plugin installed.


def distributions_for(plugin: Package) -> set[str]:
    """Names of what installing ``plugin[test]`` and ``dovetail[test]`` alone would bring, from their own requirements."""
    found: set[tuple[str, str]] = set()
    pending = [Requirement("dovetail[test]"), Requirement(f"{plugin.name}[test]")]
    while pending:
        need = pending.pop()
        name = canonicalize_name(need.name)
        for extra in {"", *need.extras}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                requires = importlib.metadata.distribution(name).requires or []
            except importlib.metadata.PackageNotFoundError:
                continue  # for another system, say
            for text in requires:
                child = Requirement(text)
                if child.marker is None or child.marker.evaluate({"extra": extra}):
                    pending.append(child)
    return {name for name, _ in found}


def make_site(folder: Path, names: set[str]) -> None:
    """A site directory with links to these distributions as they are installed here."""
    folder.mkdir()
    for name in sorted(names):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))


FRAMEWORK_ALONE = """
import site, sys
before = sys.path[:]
site.addsitedir({site!r})
"""
ISOLATED = """
from importlib.metadata import entry_points
sys.path[:] = before
site.addsitedir(sys.argv[1])
found = sorted({e.dist.name for e in entry_points(group="dovetail.plugins")})
assert found == sorted(["dovetail", sys.argv[2]]), found
sys.exit(pytest.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Forks of a process that sees, and has imported, nothing but what the framework brings: so does every plugin."""
    site = tmp_path_factory.mktemp("framework") / "site"
    make_site(site, distributions_for(FRAMEWORK))
    # -I and -S leave out the environment's own packages, and PYTHON* variables with them.
    imports = FRAMEWORK_ALONE.format(site=str(site)) + KIT
    with forks(imports, ISOLATED, options=("-I", "-S"), OMP_NUM_THREADS="1") as running:
        yield running


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
def test_rule_4_a_plugin_s_tests_pass_with_it_and_the_framework_alone(
    plugin: Package, isolated: Forks, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    make_site(site, distributions_for(plugin))
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        "-m",
        "not sweep",
        "-W",
        "ignore::pytest.PytestUnknownMarkWarning",
    ]
    # No configuration is read from above.
    command = [
        "isolated",
        site,
        plugin.name,
        *options,
        "-c",
        os.devnull,
        f"--rootdir={plugin.path}",
        plugin.path / "tests",
    ]
    done = isolated.run(command, seconds=300, cwd=plugin.path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert re.search(r"\d+ passed", done.stdout)


# What is installed: requirements.txt for serving, and requirements-dev.txt for what comes on top.


def required(file: str) -> list[str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_package_is_installed_from_its_folder() -> None:
    folders = {
        line.removeprefix("-e ").partition("[")[0]
        for file in ("requirements.txt", "requirements-dev.txt")
        for line in required(file)
        if line.startswith("-e ")
    }
    assert folders == {str(p.path.relative_to(ROOT)) for p in EVERY}


def test_serving_installs_torch_and_our_own_packages_alone() -> None:
    others = [line for line in required("requirements.txt") if not line.startswith("-e ")]
    assert [Requirement(line).name for line in others] == ["torch"]
    assert not [line for line in required("requirements.txt") if "[" in line]


def test_torch_is_pinned_in_one_place() -> None:
    files = ["requirements.txt", "requirements-dev.txt", "Makefile", "pyproject.toml", "docs/dependencies.md"]
    files += [str((p.path / "pyproject.toml").relative_to(ROOT)) for p in EVERY]
    assert [f for f in files if re.search(r"\btorch *==", (ROOT / f).read_text(encoding="utf-8"))] == [
        "requirements.txt"
    ]


# Rule 5: every claim on a card is tested by the conformance kit.

CHECKS = {
    "model": "check_model",
    "loader": "check_loader",
    "format": "check_format",
    "kernel": "check_kernel",
    "attention": "check_attention",
    "platform": "check_platform",
    "grammar": "check_grammar",
    "proposer": "check_proposer",
    "logits_processor": "check_logits_processor",
    "tool_parser": "check_tool_parser",
    "reasoning_parser": "check_reasoning_parser",
}
"""Kind of card → the kit's function for it. Sources claim nothing but a meaning, and are tested as what they are."""


@pytest.mark.parametrize("package", EVERY, ids=lambda p: p.name)
def test_rule_5_every_card_goes_through_the_kit(package: Package) -> None:
    wanted = {CHECKS[card.kind] for card in package.cards if card.kind in CHECKS} | {"check_registration"}
    lacking = wanted - package.called_in_tests()
    assert not lacking, f"the tests of {package.name} do not call {', '.join(sorted(lacking))}"


# Rule 6: every fast kernel has a slow, obvious reference beside it, and a test that compares them. Attention backends and platforms' operations are
# compared by the checks of rule 5.


def kernels() -> list[QuantKernelCard]:
    return [c for p in EVERY for c in p.cards if isinstance(c, QuantKernelCard)]


def test_rule_6_there_is_one_reference_that_takes_everything() -> None:
    references = [card for card in kernels() if card.rank == REFERENCE]
    assert {card.name: card.kinds for card in references} == {
        "dequantize": ("linear", "head", "embedding"),
        "every-expert": ("experts",),
    }
    assert all(card.packings == card.devices == ("*",) for card in references)


@pytest.mark.parametrize("card", kernels(), ids=lambda c: c.name)
def test_rule_6_every_kernel_equals_the_dequantized_weight(card: QuantKernelCard) -> None:
    try:
        check_kernel(card)
    except SkipTest as reason:
        pytest.skip(str(reason))

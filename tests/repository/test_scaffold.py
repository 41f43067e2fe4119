"""``dovetail plugins new``: what it writes works, is tidy, and is found as a plugin."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.api import UsageError
from dovetail.kernel.scaffold import MAX_NAME, TEMPLATES, framework_source, scaffold

from ..forked import KIT, PYTEST, Forks, forks
from ..projects import ROOT

LONG = ("abcdefgh-" * 4)[:MAX_NAME].rstrip("-")


# Others' plugins for pytest take longer to import than a new package's tests to run.
QUICK = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run(package: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this interpreter inside the package, with its sources and an installation record on the path."""
    environment = os.environ | QUICK | {"PYTHONPATH": python_path(package)}
    return subprocess.run(
        [sys.executable, *command], cwd=package, env=environment, capture_output=True, text=True, timeout=300
    )


def python_path(package: Path) -> str:
    return os.pathsep.join(map(str, (package / "src", installed(package))))


def installed(package: Path) -> Path:
    """A folder with the least that makes the package's entry point discoverable."""
    site = package.parent / f"{package.name}-site"
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    needs = "\n".join(f"Requires-Dist: {need}" for need in project["dependencies"])
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(f"{head}Summary: {project['description']}\n{needs}\n")
    entries = project["entry-points"]["dovetail.plugins"]
    (info / "entry_points.txt").write_text("[dovetail.plugins]\n" + "\n".join(f"{k} = {v}" for k, v in entries.items()))
    return site


@pytest.fixture(scope="module")
def tests() -> Iterator[Forks]:
    with forks(KIT, PYTEST, **QUICK) as running:
        yield running


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_tests_of_a_new_plugin_pass(tmp_path: Path, tests: Forks, kind: str) -> None:
    package = scaffold(kind, "my-thing", tmp_path)
    command = ["pytest", "-q", "-p", "no:cacheprovider"]
    done = tests.run(command, seconds=300, cwd=package, PYTHONPATH=python_path(package))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout


LIST = """
import json, sys
from dovetail.kernel.discovery import discover
found = {p.distribution: (p.status, p.reason, [f"{c.kind} {c.name}" for c in p.cards]) for p in discover()}
print(json.dumps(found | {"torch": "torch" in sys.modules}))
"""


@pytest.mark.parametrize(
    ("kind", "card"),
    [
        ("model", "model my-thing"),
        ("loader", "loader my-thing"),
        ("quant", "format my-thing"),
        ("attention", "attention my-thing"),
        ("platform", "platform my-thing"),
        ("grammar", "grammar my-thing"),
        ("proposer", "proposer my-thing"),
        ("logits-processor", "logits_processor my-thing"),
        ("tool-parser", "tool_parser my-thing"),
        ("reasoning-parser", "reasoning_parser my-thing"),
    ],
)
def test_a_new_plugin_is_found(tmp_path: Path, kind: str, card: str) -> None:
    found = json.loads(run(scaffold(kind, "my-thing", tmp_path), "-c", LIST).stdout)
    assert found[f"dovetail-{kind}-my-thing"] == ["ok", "", [card]]
    assert not found["torch"]


def readme_commands(package: Path) -> list[str]:
    """The commands of its README for an environment of its own."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (package / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    install, environment, *rest = blocks
    return "".join((environment, install, *rest)).splitlines()


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_readme_begins_with_torch_for_a_cpu_and_the_framework(tmp_path: Path, kind: str) -> None:
    commands = readme_commands(scaffold(kind, "my-thing", tmp_path))
    assert commands[:6] == [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "pip install torch --index-url https://download.pytorch.org/whl/cpu",
        f"pip install {shlex.quote(framework_source() or 'dovetail~=0.1')}",
        "pip install -e '.[test]'",
        "pytest",
    ]
    # None names something that an empty environment does not have.
    assert not [command for command in commands if "path/to" in command or "PLUGIN_" in command]


@pytest.mark.parametrize(
    ("record", "source"),
    [
        (None, None),
        ({"url": "file:///a%20b/framework", "dir_info": {}}, "/a b/framework"),
        (
            {"url": "https://host/r.git", "vcs_info": {"vcs": "git", "commit_id": "c0"}, "subdirectory": "framework"},
            "dovetail @ git+https://host/r.git@c0#subdirectory=framework",
        ),
        (
            {"url": "https://host/dovetail-0.1.0-py3-none-any.whl"},
            "dovetail @ https://host/dovetail-0.1.0-py3-none-any.whl",
        ),
    ],
)
def test_the_readme_installs_the_framework_from_where_it_came(
    monkeypatch: pytest.MonkeyPatch, record: object, source: str | None
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            return None if record is None else json.dumps(record)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed())
    assert framework_source() == source


@pytest.mark.sweep
def test_the_commands_of_the_readme_work_in_an_empty_environment(tmp_path: Path) -> None:
    """Without a network: what pip would fetch is already there, and builds are not isolated."""
    pytest.importorskip("hatchling")
    package = scaffold("tool-parser", "my-thing", tmp_path)
    environment = os.environ | {
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_DEPS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    site = sysconfig.get_path("purelib")
    activate = ""
    for number, command in enumerate(readme_commands(package)):
        if command.startswith("pip install build"):  # from here on an index is needed
            break
        if command.startswith(". "):
            activate = f"{command} && "
        if command == "pytest":  # whose script is in the other environment
            command = "python -m pytest"
        done = subprocess.run(
            activate + command, shell=True, cwd=package, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        if number == 0:
            (folder,) = (package / ".venv" / "lib").glob("python3*/site-packages")
            # Not as an addition to the path that its own .pth files would be read from: only what they name.
            lines = [site, *(line for file in Path(site).glob("*.pth") for line in file.read_text().splitlines())]
            (folder / "outside.pth").write_text("\n".join(line for line in lines if not line.startswith("import")))
    assert command.startswith("pip install build")


@pytest.mark.parametrize("name", ["x", "my-thing", LONG])
def test_what_is_written_is_tidy(tmp_path: Path, name: str) -> None:
    pytest.importorskip("ruff")
    packages = [scaffold(kind, name, tmp_path) for kind in TEMPLATES]
    for command in (("check", "--no-cache"), ("format", "--no-cache", "--check")):
        # Each with its own package's settings.
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *packages], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert "PLUGIN_" not in file.read_text() + file.name, f"{file} has a word left over"


@pytest.mark.sweep
def test_what_is_written_is_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    sources = [str(scaffold(kind, "my-thing", tmp_path) / "src") for kind in TEMPLATES]
    framework = str(ROOT / "framework" / "src")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            f"--cache-dir={tmp_path / 'cache'}",
            *sources,
        ],
        env=os.environ | {"MYPYPATH": os.pathsep.join([framework, *sources])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_wheel_holds_the_module_and_the_entry_point(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    package = scaffold("quant", "my-thing", tmp_path)
    done = run(package, "-m", "hatchling", "build", "-t", "wheel")
    assert done.returncode == 0, done.stderr
    (wheel,) = (package / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "my-thing = dovetail_quant_my_thing" in entry
    assert {"dovetail_quant_my_thing/format.py", "dovetail_quant_my_thing/py.typed"} <= set(names)
    assert not [n for n in names if n.startswith("tests")]


def test_the_framework_s_wheel_brings_the_templates(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT / "framework",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    root = ROOT / "framework" / "src"
    templates = root / "dovetail" / "kernel" / "templates"
    wanted = {str(f.relative_to(root)) for f in templates.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert wanted
    with zipfile.ZipFile(wheel) as archive:
        assert wanted <= set(archive.namelist())


def test_the_requirement_is_this_version_s(tmp_path: Path) -> None:
    package = scaffold("model", "my-thing", tmp_path)
    own = tomllib.loads((ROOT / "framework" / "pyproject.toml").read_text())["project"]["version"]
    needs = tomllib.loads((package / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"dovetail~={'.'.join(own.split('.')[:2])}" in needs


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("MyThing", "my-thing"),
        ("my_thing", "my-thing"),
        ("8bit", "bit"),
        ("-x-", "x"),
        ("a--b", "a-b"),
        ("../up", "up"),
        ("ü", "my-plugin"),
        ("", "my-plugin"),
        ("x" * 33, "x" * 32),
    ],
)
def test_a_name_that_cannot_be_a_package_s_is_refused_with_one_that_can(tmp_path: Path, name: str, likely: str) -> None:
    with pytest.raises(UsageError, match=rf"wanted a name of lower-case letters.*for example {likely}$"):
        scaffold("model", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_has_the_architecture_that_was_given(tmp_path: Path) -> None:
    package = scaffold("model", "x", tmp_path, "FalconForCausalLM")
    done = run(package, "-c", "import dovetail_model_x as m; print(m.dovetail_register_models()[0].architectures)")
    assert done.stdout.strip() == "('FalconForCausalLM',)", done.stderr
    assert "names FalconForCausalLM" in (package / "README.md").read_text()
    done = run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "registration or tied")
    assert re.search(r"2 passed", done.stdout), done.stdout
    (tmp_path / "usual").mkdir()
    usual = scaffold("model", "my-thing", tmp_path / "usual") / "src" / "dovetail_model_my_thing" / "__init__.py"
    assert 'architectures=("MyThingForCausalLM",)' in usual.read_text()


@pytest.mark.parametrize("architecture", ["", "Llama ForCausalLM", "Llama*", "3B", "Café", 'X"', "X" * 65])
def test_an_architecture_that_no_file_has_is_refused(tmp_path: Path, architecture: str) -> None:
    with pytest.raises(UsageError, match="wanted an architecture of letters, digits and underscores"):
        scaffold("model", "x", tmp_path, architecture)
    assert not list(tmp_path.iterdir())


def test_only_models_have_an_architecture(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--architecture is for the kind model, found loader"):
        scaffold("loader", "x", tmp_path, "LlamaForCausalLM")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found 'modle'; kinds: model, loader, quant, attention, platform"):
        scaffold("modle", "x", tmp_path)


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    package = scaffold("loader", "x", tmp_path)
    (package / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        scaffold("loader", "x", tmp_path)
    assert (package / "README.md").read_text() == "mine"
    with pytest.raises(UsageError, match="wanted a folder"):
        scaffold("loader", "y", tmp_path / "nowhere")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    written: list[Path] = []
    write = Path.write_text

    def fail(self: Path, *args: object, **options: object) -> int:
        written.append(self)
        if len(written) == 3:
            raise failure
        return write(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", fail)
    expected = UsageError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        scaffold("model", "x", tmp_path)
    assert len(written) == 3
    assert not list(tmp_path.iterdir())

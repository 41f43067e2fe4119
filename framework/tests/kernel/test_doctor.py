"""What the doctor sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.api import Card, ModelCard, NamingCard
from dovetail.kernel.discovery import PluginFilter
from dovetail.kernel.doctor import Finding, examine, named_objects
from dovetail.kernel.registry import Registry

from . import fakes
from .fakes import Site, loader, model, platform, plugin

REAL = {"target": "json:loads", "config": f"{fakes.__name__}:TinyConfig"}
HEALTHY = plugin(
    "healthy",
    ModelCard(name="tiny", architectures=("T",), **REAL),
    loader("plain").model_copy(update={"target": "json:loads"}),
    platform().model_copy(update={"target": "json:loads"}),
)


def told(*plugins: object, healthy: bool = True) -> list[str]:
    return [str(f) for f in examine(Registry([*([HEALTHY] if healthy else []), *plugins]))]  # type: ignore[list-item]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert told() == []


def test_a_quarantined_plugin_is_an_error() -> None:
    broken = plugin("cracked")
    broken.quarantine("SyntaxError: oops")
    assert told(broken) == ["error: cracked:main: SyntaxError: oops; update, repair or uninstall it"]


def test_a_conflict_is_an_error() -> None:
    (finding,) = told(plugin("b", model("x", **REAL)), plugin("a", model("x", **REAL)))
    assert finding == (
        "error: model x: model 'x' is offered by a 1.0 and b 1.0, so neither is used; "
        "uninstall one, or choose with --prefer model:x=a"
    )


def test_a_denied_plugin_is_a_note() -> None:
    denied = plugin("left-out", status="denied", reason="excluded by the plugin filter")
    assert told(denied) == ["note: left-out:main: excluded by the plugin filter"]


@pytest.mark.parametrize(
    ("card", "name"),
    [
        (model("x", target="nowhere_at_all:M"), "nowhere_at_all:M"),
        (model("x", target="json:loads", config="json.nowhere.at_all:C"), "json.nowhere.at_all:C"),
        (loader("x", inspect="nowhere_at_all:i").model_copy(update={"target": "json:loads"}), "nowhere_at_all:i"),
        (
            model("x", **REAL, naming={"box": NamingCard(architectures=("x",), target="nowhere_at_all:N")}),
            "nowhere_at_all:N",
        ),
    ],
)
def test_a_card_that_names_no_module_is_an_error(card: ModelCard, name: str) -> None:
    wanted = f"error: some:main: the {card.kind} x names {name}, and there is no such module; reinstall or update it"
    assert told(plugin("some", card)) == [wanted]


@pytest.mark.parametrize("source", ["raise ValueError", "raise SystemExit(3)", "def oops("])
def test_a_package_that_cannot_be_imported_has_no_modules(site: Site, source: str) -> None:
    package = site.folder / "fragile"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (finding,) = told(plugin("some", model("x", target="fragile.model:M")))
    assert "names fragile.model:M, and there is no such module" in finding


def test_a_platform_that_is_absent_is_a_note_unless_it_is_the_only_one() -> None:
    gpu = platform("gpu", "gpu", probe=f"{fakes.__name__}:absent").model_copy(update={"target": "json:loads"})
    note = "note: platform gpu: not available: there is no such device here"
    assert told(plugin("some", gpu)) == [note]
    cards = [c for c in HEALTHY.cards if c.kind != "platform"]
    assert told(plugin("some", gpu, *cards), healthy=False) == [
        "warning: platforms: none is available, and a model needs one; install a backend plugin",
        note,
    ]


def test_an_empty_installation_lacks_everything() -> None:
    assert told(healthy=False) == [
        "warning: platforms: none is available, and a model needs one; install a backend plugin",
        "warning: models: none is installed, and a server needs one; install a model plugin",
        "warning: loaders: none is installed, and a server needs one; install a loader plugin",
    ]


def test_a_plugin_that_everybody_waits_for_is_a_warning() -> None:
    slow = plugin("slow", seconds=2.0)
    assert told(slow) == [
        "warning: slow:main: takes 2.0 s to import, which every command waits for; "
        "its registration should import dovetail.api alone"
    ]


def test_errors_come_first() -> None:
    denied, broken = plugin("a", status="denied"), plugin("b")
    broken.quarantine("oops")
    assert [f.severity for f in examine(Registry([HEALTHY, denied, plugin("c", seconds=2.0), broken]))] == [
        "error",
        "warning",
        "note",
    ]


def test_a_finding_may_have_no_hint() -> None:
    assert str(Finding(severity="note", subject="x", problem="y")) == "note: x: y"


def test_every_dotted_name_of_a_card_is_seen() -> None:
    card = model("x", **REAL, naming={"box": NamingCard(architectures=("x",), target="n:N")})
    assert named_objects(card) == [*REAL.items(), ("naming of box", "n:N")]
    assert named_objects(loader("x")) == [("target", "l:load"), ("inspect", f"{fakes.__name__}:inspect")]


NAMED = fakes.__name__


class Silent:
    """A naming without methods."""


def lists() -> list[str]:
    return ["no"]


def says_nothing() -> str:
    return " "


@pytest.mark.parametrize(
    ("card", "told_of_it"),
    [
        (model("x", target="json:loads", config="json:loads"), "its config json:loads: is no subclass of ModelConfig"),
        (model("x", target="json:loads", config=f"{NAMED}:Nope"), f"cannot import {NAMED}:Nope: AttributeError"),
        (
            loader("x", inspect=f"{NAMED}:NAMING").model_copy(update={"target": "json:loads"}),
            "BoxNaming, and cannot be",
        ),
        (fakes.source("x", "gone"), f"its target {NAMED}:gone: cannot import"),
        (fakes.tool_parser("x").model_copy(update={"target": "json:JSONDecodErr"}), "its target json:JSONDecodErr"),
        (
            fakes.proposer("x").model_copy(update={"target": "json:loads", "config": "json:loads"}),
            "its config json:loads: is no subclass of BaseModel",
        ),
        (
            model("x", **REAL, naming={"box": NamingCard(architectures=("x",), target=f"{__name__}:Silent")}),
            "is a class, wanted an instance of it",
        ),
        (
            model("x", **REAL, naming={"box": NamingCard(architectures=("x",), target=f"{__name__}:NAMED")}),
            "lacks config, rename, row_order",
        ),
        (
            platform("x", "gpu", probe=f"{NAMED}:raising").model_copy(update={"target": "json:loads"}),
            "its probe failed (ZeroDivisionError: division by zero)",
        ),
        (
            fakes.attention("x", probe=f"{__name__}:lists").model_copy(update={"target": "json:loads"}),
            "its probe failed (it answered with list, wanted a text or None)",
        ),
        (
            fakes.attention("x", probe=f"{__name__}:says_nothing").model_copy(update={"target": "json:loads"}),
            "its probe failed (it answered with an empty text, wanted a text or None)",
        ),
    ],
)
def test_what_is_imported_without_torch_is_tried(card: Card, told_of_it: str) -> None:
    (finding,) = told(plugin("some", card))
    assert finding.startswith(f"error: some:main: the {card.kind} x: ")
    assert told_of_it in finding


def test_a_term_of_the_filter_that_matches_nothing_is_a_warning() -> None:
    registry = Registry([HEALTHY], filter=PluginFilter("healthy,-model:left-out,attention:-gone*"))
    assert [str(finding) for finding in examine(registry)] == [
        f"warning: plugin filter: the term {term} matches no installed plugin; correct it, or leave it out; dovetail "
        "plugins list shows the names"
        for term in ("-model:left-out", "attention:-gone*")
    ]


def test_who_imports_torch_is_told(site: Site) -> None:
    """In a process of its own, since this one has torch."""
    site.add("heavy", "import torch\n" + fakes.offering("x"))
    site.add("lazy", fakes.offering("y", "Y").replace("m:C", "lazy_config:C"))
    (site.folder / "lazy_config.py").write_text("import torch\nfrom dovetail.api import ModelConfig as C\n")
    code = "from dovetail.kernel.doctor import examine; from dovetail.kernel.registry import Registry; print(*examine(Registry.load(plugins={!r})), sep='\\n')"
    for plugins, wanted in (
        ("heavy", "warning: heavy:main: imports torch at registration"),
        ("lazy", "warning: lazy:main: the model y: importing its config lazy_config:C imports torch"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(plugins)],
            env=os.environ | {"PYTHONPATH": str(site.folder)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert wanted in done.stdout, done.stdout + done.stderr


PLATFORM = """
import sys
from pathlib import Path
from dovetail.api import PlatformCard, hookimpl

@hookimpl
def dovetail_register_platforms():
    return [PlatformCard(name="{0}", device="cpu", target="json:loads", probe="{0}:probe")]
"""


def test_what_plugins_do_to_the_command_itself_is_told_and_survived(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for name, sin in (
        ("press", "def probe():\n    raise KeyboardInterrupt\n"),
        ("out", "sys.stdout.close()\n"),
        ("err", "sys.stderr.close()\n"),
        ("outer", "sys.__stdout__.close()\n"),
        ("late", "def probe():\n    sys.stderr.close()\n"),
    ):
        site.add(name, PLATFORM.format(name) + sin)
    command = [sys.executable, "-m", "dovetail", "plugins", "doctor", "--plugins", "press,out,err,outer,late"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    for name, stream in (("out", "stdout"), ("err", "stderr"), ("outer", "__stdout__")):
        assert f"error: {name}:main: it closed sys.{stream}; update, repair or uninstall it" in lines
    for name, reason in (("press", "KeyboardInterrupt"), ("late", "it closed sys.stdout and sys.stderr")):
        assert f"error: {name}:main: the platform {name}: its probe failed ({reason}); update it" in lines
    assert "Traceback" not in done.stderr

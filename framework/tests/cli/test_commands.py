"""The commands that run nothing: help, version, plugins and plan."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from dovetail.cli.main import COMMANDS, main
from dovetail.cli.plugins import MANY
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import resolve

from ..kernel.fakes import Site, offering

DOVETAIL = Path(sys.executable).with_name("dovetail")
CONFIG = """
from dovetail.api import ModelConfig, AttentionRequirement, Checkpoint

class Config(ModelConfig):
    def attention_requirements(self):
        return (AttentionRequirement(head_dim=8),)

def inspect(path, files):
    print("a plugin that prints")
    return Checkpoint(path=path, files=files, tensor_types={"float32": 3})
"""
WALNUT = """
from dovetail.api import *

@hookimpl
def dovetail_register_models():
    return [ModelCard(name="walnut", architectures=("Walnut",), target="m:M", config="walnut_parts:Config")]

@hookimpl
def dovetail_register_loaders():
    return [LoaderCard(name="shells", recognises=("*.shell",), inspect="walnut_parts:inspect", target="l:load")]

@hookimpl
def dovetail_register_attention():
    return [AttentionCard(name="nutty", devices=("wood",), dtypes=("float32",), target="a:A")]

@hookimpl
def dovetail_register_platforms():
    return [PlatformCard(name="tree", summary="grows", device="wood", target="p:P")]
"""


@pytest.fixture
def walnut(site: Site) -> Site:
    """A site with a plugin of every part that a plan needs besides the framework's own."""
    site.add("walnut-pack", WALNUT)
    (site.folder / "walnut_parts.py").write_text(CONFIG)
    site.modules.add("walnut_parts")
    return site


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "nut"
    folder.mkdir()
    (folder / "a.shell").touch()
    config = {"architectures": ["Walnut"], "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


Out = pytest.CaptureFixture[str]
ONLY = "--plugins=walnut-pack"


def run(*arguments: str) -> int:
    """The exit code, however the command leaves."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)


def answer(out: Out, *arguments: str, code: int = 0) -> Any:
    assert run(*arguments) == code
    return json.loads(out.readouterr().out)


# Help, version, usage.


def test_help_lists_the_commands(capsys: Out) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out and text in " ".join(out.split()) for name, text in COMMANDS.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Out) -> None:
    assert run(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: dovetail {command} ")


def test_the_version(capsys: Out) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == version("dovetail") + "\n"


def test_no_command_shows_the_help_and_is_wrong_usage(capsys: Out) -> None:
    assert run() == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["srve"], r"error: argument COMMAND: invalid choice: 'srve' (choose from 'serve',"),
        (["serve", "--nope", "3"], "error: unknown arguments: --nope; see dovetail serve --help"),
        (
            ["serve", "--max-model", "3"],
            "error: unknown arguments: --max-model (did you mean --max-model-len?); see dovetail serve --help",
        ),
        (["--nope"], "error: unknown arguments: --nope; see dovetail --help"),
        (
            ["plan", "--block-size", "x"],
            "error: argument --block-size: invalid int value: 'x'; see dovetail plan --help",
        ),
        (
            ["complete", "tiny", "Hi there"],
            "error: unknown arguments: Hi there; the text to continue is given with --prompt; see dovetail complete --help",
        ),
        (
            ["complete", "Hello", "--model", "tiny"],
            "error: two models were named, Hello and --model tiny; name one; the text to continue is given with --prompt",
        ),
        (
            ["chat", "tiny", "Hi there"],
            "error: unknown arguments: Hi there; a question is given with --prompt; see dovetail chat --help",
        ),
        (
            ["complete", "--prmpt", "x"],
            "error: unknown arguments: --prmpt",
        ),
        (["plugins"], "error: the following arguments are required: ACTION; see dovetail plugins --help"),
        (["plugins", "show"], "error: the following arguments are required: name; see dovetail plugins show --help"),
        (["plugins", "list", "--plugins", "a:b:c"], "error: cannot read the plugin filter term 'a:b:c'; write"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], told: str, capsys: Out) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith(told)
    assert err.count("\n") == 1
    assert not out


@pytest.mark.parametrize(
    "arguments", [["--debug", "plan", "./nowhere"], ["plan", "./nowhere", "--debug"]], ids=" ".join
)
def test_debug_shows_the_traceback_and_changes_nothing_else(arguments: list[str], capsys: Out) -> None:
    assert run(*arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "error: wanted a model at ./nowhere, found nothing there; correct the path"
    assert run("plan", "./nowhere") == 1
    assert capsys.readouterr().err == lines[-1] + "\n"


# plugins.


def test_list_shows_what_is_offered(walnut: Site, capsys: Out) -> None:
    assert run("plugins", "list", ONLY) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("walnut-pack 1.0  a fake, walnut-pack")
    assert [line.split()[:4] for line in lines[at + 1 : at + 5]] == [
        ["attention", "nutty", "rank", "50"],
        ["loader", "shells", "rank", "50"],
        ["model", "walnut", "rank", "50"],
        ["platform", "tree", "rank", "50"],
    ]
    assert "  platform   tree             rank 50   grows" in lines


def test_list_tells_many_of_a_kind_in_a_line(site: Site, capsys: Out) -> None:
    names = [f"walnut{n}" for n in range(MANY + 1)]
    cards = [f"ModelCard(name={n!r}, architectures=({n.title()!r},), target='m:M', config='c:C')" for n in names]
    site.add(
        "many",
        f"from dovetail.api import *\n@hookimpl\ndef dovetail_register_models():\n    return [{', '.join(cards)}]",
    )
    assert run("plugins", "list", "--plugins=many") == 0
    assert f"  {len(names)} models: {', '.join(names)}\n" in capsys.readouterr().out
    assert run("plugins", "list", "--plugins=many", "--all") == 0
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  model ")] == names
    (found,) = (p for p in answer(capsys, "plugins", "list", "--json")["plugins"] if p["distribution"] == "many")
    assert [card["name"] for card in found["cards"]] == names


def test_list_as_json(walnut: Site, capsys: Out) -> None:
    walnut.add("broken", "raise ValueError('oops')")
    walnut.add("other", offering("walnut"))
    found = answer(capsys, "plugins", "list", "--json")
    plugins = {p["distribution"]: p for p in found["plugins"]}
    pack = plugins["walnut-pack"]
    cards = {(c["kind"], c["name"]) for c in pack.pop("cards")}
    assert cards == {("model", "walnut"), ("loader", "shells"), ("attention", "nutty"), ("platform", "tree")}
    assert pack == {
        "name": "walnut-pack:main",
        "distribution": "walnut-pack",
        "version": "1.0",
        "module": "walnut_pack",
        "status": "ok",
        "reason": "",
        "summary": "a fake, walnut-pack",
    }
    assert (plugins["broken"]["status"], plugins["broken"]["reason"]) == ("quarantined", "ValueError: oops")
    assert found["conflicts"] == [{"kind": "model", "name": "walnut", "distributions": ["other", "walnut-pack"]}]


def test_list_shows_what_is_wrong(walnut: Site, capsys: Out) -> None:
    walnut.add("broken", "raise ValueError('oops')")
    walnut.add("other", offering("walnut"))
    assert run("plugins", "list") == 0
    out, err = capsys.readouterr()
    assert "  quarantined: ValueError: oops\n" in out
    assert out.count("(in conflict, not used)") == 2
    assert err.startswith(
        "warning: model 'walnut' is offered by other 1.0 and walnut-pack 1.0, so neither is used; uninstall"
    )
    assert run("plugins", "list", "--prefer", "model:walnut=other") == 0
    out, err = capsys.readouterr()
    assert "in conflict" not in out + err
    assert run("plugins", "list", "--plugins", "-other") == 0
    assert "  denied: excluded by the plugin filter\n" in capsys.readouterr().out


def test_a_summary_of_several_lines_is_one(walnut: Site, capsys: Out) -> None:
    walnut.add("wordy", offering("long").replace("target=", "summary='grows\\n  in\\ttrees\\x1b[2J', target="))
    assert run("plugins", "list") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "in trees" in line]
    assert line == "  model      long             rank 50   grows in trees\\x1b[2J"
    assert run("plugins", "show", "long") == 0
    assert "\n  summary        grows in trees\\x1b[2J\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["walnut-pack", "Walnut_Pack", "walnut-pack:main"])
def test_show_finds_plugins_and_what_they_offer(walnut: Site, capsys: Out, name: str) -> None:
    assert run("plugins", "show", name) == 0
    out = capsys.readouterr().out
    assert "distribution   walnut-pack\n" in out
    assert "\nplatform tree\n  summary        grows\n" in out
    (found,) = answer(capsys, "plugins", "show", name, "--json")
    assert found["version"] == "1.0"
    assert len(found["cards"]) == 4


def test_show_of_a_card_leaves_the_others_out(walnut: Site, capsys: Out) -> None:
    walnut.add("other", offering("walnut"))
    assert run("plugins", "show", "tree") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "platform tree",
        "  plugin         walnut-pack 1.0: a fake, walnut-pack",
        "  summary        grows",
    ]
    assert not [line for line in lines[1:] if line and not line.startswith("  ")]
    found = answer(capsys, "plugins", "show", "walnut", "--json")
    assert {(f["distribution"], c["kind"], c["name"]) for f in found for c in f["cards"]} == {
        ("other", "model", "walnut"),
        ("walnut-pack", "model", "walnut"),
    }


def test_show_says_what_there_is_instead(walnut: Site, capsys: Out) -> None:
    assert run("plugins", "show", "wallnut") == 2
    err = capsys.readouterr().err
    assert re.match(r"error: wanted the plugin 'wallnut', found \d+ names, the nearest walnut, walnut-pack, ", err)
    assert err.endswith("; see dovetail plugins list\n")


def healthy(walnut: Site) -> None:
    for module in "mlap":
        (walnut.folder / f"{module}.py").touch()
        walnut.modules.add(module)


def test_doctor_passes_where_all_is_well(walnut: Site, capsys: Out) -> None:
    healthy(walnut)
    found = answer(capsys, "plugins", "doctor", ONLY, "--json")
    assert found["healthy"]
    assert {f["severity"] for f in found["findings"]} <= {"note"}
    assert run("plugins", "doctor", ONLY) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" plugins load, the framework's own parts among them")


def test_doctor_passes_where_only_other_parts_are_missing(walnut: Site, capsys: Out) -> None:
    """A new plugin alone in its environment."""
    healthy(walnut)
    walnut.add("lonely", offering("walnut").replace("m:C", "walnut_parts:Config"))
    assert run("plugins", "doctor", "--plugins=lonely") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in lines if line.startswith("warning")] == [
        "warning: platforms: none is available, and a model needs one",
        "warning: loaders: none is installed, and a server needs one",
    ]


def test_doctor_names_what_is_broken_and_fails(walnut: Site, capsys: Out) -> None:
    healthy(walnut)
    walnut.add("broken", "raise ValueError('oops')")
    arguments = ("plugins", "doctor", "--plugins=walnut-pack,broken")
    assert run(*arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "error: broken:main: ValueError: oops; update, repair or uninstall it"
    assert lines[-1].endswith(" among them; see the errors above")
    found = answer(capsys, *arguments, "--json", code=1)
    assert not found["healthy"]
    assert found["findings"][0] == {
        "severity": "error",
        "subject": "broken:main",
        "problem": "ValueError: oops",
        "hint": "update, repair or uninstall it",
    }
    assert run(*arguments, "--debug") == 1
    assert "Traceback (most recent call last):" in capsys.readouterr().out


def test_doctor_finds_modules_that_are_not_there(walnut: Site, capsys: Out) -> None:
    assert run("plugins", "doctor", ONLY) == 1
    assert "walnut-pack:main: the model walnut names m:M, and there is no such module" in capsys.readouterr().out


def test_new_writes_a_package(tmp_path: Path, capsys: Out) -> None:
    found = answer(capsys, "plugins", "new", "model", "my-thing", "--directory", str(tmp_path), "--json")
    assert (Path(found["path"]) / "pyproject.toml").is_file()
    assert run("plugins", "new", "modle", "x", "--directory", str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1


# plan.


def test_plan_shows_every_choice(walnut: Site, checkpoint: Path, capsys: Out) -> None:
    assert run("plan", str(checkpoint), ONLY) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"model          {checkpoint}\narchitecture   Walnut\ntasks          generate: what the model was made for\ndtype          float32, KV cache"
    )
    for line in (
        "loader         shells (walnut-pack 1.0): rank 50, the only one that fits",
        "attention      nutty (walnut-pack 1.0): rank 50, the only one that fits",
        "type float32, 3 tensors\n  format       dense (dovetail ",
        "): rank 50, the only one that fits\n    linear, head, embedding: kernel dense (dovetail ",
        ", rank 50), else dequantize (dovetail ",
        "\n  for other weights or layers: affine, ",
    ):
        assert line in out
    assert "takes affine" not in out
    assert out.count("scaled-float") == 1
    assert "a plugin that prints" not in out


def test_plan_tells_all_with_verbose(walnut: Site, checkpoint: Path, capsys: Out) -> None:
    assert run("plan", str(checkpoint), ONLY, "--verbose") == 0
    out = capsys.readouterr().out
    assert "    linear: not affine: takes affine\n" in out
    assert "    embedding: not affine: takes affine\n" in out
    assert "for other weights" not in out


def test_the_text_of_a_plan_is_what_plan_prints(walnut: Site, checkpoint: Path, capsys: Out) -> None:
    assert run("plan", str(checkpoint), ONLY) == 0
    printed = capsys.readouterr().out
    with contextlib.redirect_stdout(io.StringIO()):  # a plugin prints
        plan = resolve(PlanOptions(model=str(checkpoint)), Registry.load(plugins="walnut-pack"))
    assert f"{plan}\n" == printed


def test_plan_as_json(walnut: Site, checkpoint: Path, capsys: Out) -> None:
    found = answer(capsys, "plan", str(checkpoint), ONLY, "--json", "--max_model_len", "1k")
    assert (found["architecture"], found["max_model_len"]) == ("Walnut", 1000)
    assert found["model_part"]["part"]["distribution"] == "walnut-pack"
    overridden = answer(
        capsys, "plan", str(checkpoint), ONLY, "--json", "--hf-overrides", '{"max_position_embeddings": 77}'
    )
    assert overridden["max_model_len"] == 77


def test_plan_prints_warnings_beside_the_plan(walnut: Site, checkpoint: Path, capsys: Out) -> None:
    twin = offering("chestnut", "Walnut").replace("m:C", "walnut_parts:Config")
    walnut.add("twin", twin)
    assert run("plan", str(checkpoint), "--plugins=walnut-pack,twin", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["model_part"]["part"]["name"] == "chestnut"
    assert "warning: model chestnut (twin 1.0) and model walnut (walnut-pack 1.0) fit equally well; " in err


def test_plan_that_fails_is_one_line(walnut: Site, checkpoint: Path, capsys: Out) -> None:
    assert run("plan", str(checkpoint), ONLY, "--load-format", "nope") == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines()[-1].startswith("error: wanted the loader 'nope', found shells")


# Time, and what is not imported.


def _seconds(*command: str) -> float:
    started = time.perf_counter()
    # No timeout: waiting with one looks at the process every 50 ms.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


@pytest.mark.alone
@pytest.mark.parametrize(
    ("arguments", "limit"), [("--help", 0.15), ("plugins list", 0.4), ("serve --help", 0.3)], ids=str
)
def test_it_answers_at_once(arguments: str, limit: float, slowness: Callable[[], float]) -> None:
    taken: list[float] = []
    slow: list[float] = []
    while len(taken) < 10 and (not taken or min(taken) >= limit):
        taken.append(_seconds(DOVETAIL, *arguments.split()))
        slow.append(slowness())
    assert min(taken) < limit * min(slow)


HEAVY = ("torch", "transformers", "tokenizers", "numpy", "fastapi", "uvicorn", "zmq")
IMPORTED = f"""
import sys
from dovetail.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["serve", "--help"],
        ["serve", "--help=all"],
        ["serve", "--help=limits"],
        ["chat", "--help"],
        ["plan", "--help"],
        ["plugins", "list"],
        ["plugins", "list", "--json"],
        ["plugins", "show", "dense"],
    ],
    ids=" ".join,
)
def test_it_imports_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr

"""What is found, what is left out, and that a broken plugin harms nobody but itself."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dovetail.api import PluginError, UsageError
from dovetail.kernel.discovery import KINDS, PluginFilter, discover, framework_version, import_dotted, incompatibility

from .fakes import Site, offering

HOOK = "from dovetail.api import *\n\n@hookimpl\ndef dovetail_register_models({arguments}):\n    {body}\n"


def hook(body: str, arguments: str = "") -> str:
    return HOOK.format(body=body, arguments=arguments)


CARD = 'ModelCard(name="x", architectures=("X",), target="m:M", config="m:C")'

BROKEN = {
    "raises": ('raise RuntimeError("no luck\\ntoday")', r"^RuntimeError: no luck$"),
    "raises_without_words": ("raise ValueError", r"^ValueError$"),
    "leaves": ("import sys\nsys.exit(7)", r"^SystemExit: 7$"),
    "panics": (
        'class Panic(BaseException): ...\nraise Panic("compiled code gave up")',
        r"^Panic: compiled code gave up$",
    ),
    "is_no_python": ("def oops(:\n", r"^SyntaxError: .*is_no_python\.py, line 1"),
    "misses_a_module": ("import nowhere_to_be_found", r"^ModuleNotFoundError: No module named 'nowhere_to_be_found'$"),
    "misses_a_name": ("from dovetail.api import NoSuchCard", r"^ImportError: cannot import name 'NoSuchCard'"),
    "implements_nothing": ("x = 1", r"^implements no hook; mark its functions with dovetail\.api\.hookimpl$"),
    "implements_another": (
        "from dovetail.api import hookimpl\n@hookimpl\ndef dovetail_register_modles(): return []",
        r"^implements the unknown hook 'dovetail_register_modles'; known hooks: dovetail_register_models, ",
    ),
    "takes_arguments": (hook("return []", "config"), r"dovetail_register_models.*\{'config'\} are declared"),
    "raises_in_the_hook": (hook("1 / 0"), r"^ZeroDivisionError: division by zero$"),
    "leaves_in_the_hook": (hook("raise SystemExit"), r"^SystemExit$"),
    "answers_none": (hook("return None"), r"^dovetail_register_models answered with None, not a list of cards$"),
    "answers_a_text": (hook('return "llama"'), r"answered with str, not a list of cards$"),
    "answers_lazily": (hook(f"yield {CARD}"), r"answered with generator, not a list of cards$"),
    "answers_a_card": (hook(f"return {CARD}"), r"answered with ModelCard, not a list of cards$"),
    "answers_with_texts": (hook('return ["llama"]'), r"answered with str where ModelCard is wanted$"),
    "answers_with_another_card": (
        hook('return [SourceCard(name="x", target="s:S")]'),
        r"answered with SourceCard where ModelCard is wanted$",
    ),
    "has_a_typo": (
        hook("return [" + CARD.replace("config=", "confg=") + "]"),
        r"^ModelCard 'x' is malformed: config: Field required; confg: Extra inputs are not permitted$",
    ),
    "has_a_bad_value": (
        hook("return [" + CARD.replace('"m:M"', '"m.M"') + "]"),
        r"^ModelCard 'x' is malformed: target: .* \(found 'm\.M'\)$",
    ),
    "cannot_say_why": (
        "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\n\nraise Odd",
        r"^Odd$",
    ),
    "answers_later": (
        hook("return []").replace("def dovetail", "async def dovetail"),
        r"^dovetail_register_models answered with coroutine \(of an async def, and nothing is awaited here\), not a list",
    ),
    "skips_the_checks": (
        hook('return [ModelCard.model_construct(name="x", architectures="X", target="m:M")]'),
        r"^ModelCard 'x' is malformed: architectures: .*tuple \(found 'X'\); config: Field required$",
    ),
    "skips_the_checks_of_a_naming": (
        hook(f"return [{CARD[:-1]}, naming={{'box': NamingCard.model_construct(target='N')}})]"),
        r"^ModelCard 'x' is malformed: naming\.box\.architectures: Field required; naming\.box\.target: .* \(found 'N'\)$",
    ),
    "raises_in_a_card": (
        "from dovetail.api import *\nclass Shy(ModelCard):\n    def __getattribute__(self, name):\n"
        "        if name == 'rank': raise LookupError('gone')\n        return super().__getattribute__(name)\n\n"
        + hook("return [" + CARD.replace("ModelCard", "Shy") + "]"),
        r"^the rank of ModelCard 'x' cannot be read: LookupError: gone$",
    ),
    "offers_twice": (hook(f"return [{CARD}, {CARD}]"), r"^offers the model 'x' twice$"),
}


@pytest.mark.filterwarnings("error")  # such as that a coroutine was never awaited
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_quarantined_and_harms_no_other(site: Site, fault: str) -> None:
    source, reason = BROKEN[fault]
    site.add(fault, source)
    site.add("a-good-one", offering("good"))
    site.add("z-good-one", offering("better"))
    found = site.discover()
    broken = found.pop(fault)
    assert broken.status == "quarantined"
    assert not broken.cards
    assert re.search(reason, broken.reason), broken.reason
    assert "\n" not in broken.reason
    assert "Traceback" in broken.detail
    assert {p.distribution: [c.name for c in p.cards] for p in found.values()} == {
        "a-good-one": ["good"],
        "z-good-one": ["better"],
    }


def test_the_framework_s_own_parts_are_found_beside_broken_plugins(site: Site) -> None:
    site.add("broken", "raise ValueError")
    (own,) = [p for p in discover() if p.name == "dovetail:builtin"]
    assert own.status == "ok"
    assert {c.name for c in own.cards} >= {"dense", "path", "hub"}


def test_what_a_plugin_prints_stays_out_of_the_output(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.add("talker", f"print('hello')\n{offering('x')}".replace("    return", "    print('hello again')\n    return"))
    assert site.discover()["talker"].status == "ok"
    assert capsys.readouterr().out == ""


INTERRUPT = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)"
SWALLOWED = "\n".join(["try:", *(f"    {line}" for line in INTERRUPT.splitlines()), "except BaseException: pass"])


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("source", [INTERRUPT, SWALLOWED], ids=["raised", "swallowed"])
def test_ctrl_c_is_no_fault_of_a_plugin(site: Site, source: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    site.add("slow", source)
    module = site.add("zebra", "raise ValueError")  # not begun any more, if it is found later
    with pytest.raises(KeyboardInterrupt):
        site.discover()
    assert signal.getsignal(signal.SIGINT) is before
    assert module not in sys.modules


@pytest.mark.parametrize("source", ["raise KeyboardInterrupt", hook("raise KeyboardInterrupt")], ids=["import", "hook"])
def test_a_plugin_s_own_interrupt_is_its_fault(site: Site, source: str) -> None:
    site.add("slow", source)
    site.add("good", offering("x"))
    found = site.discover()
    assert (found["slow"].status, found["slow"].reason) == ("quarantined", "KeyboardInterrupt")
    assert found["good"].status == "ok"


def test_in_another_thread_no_interrupt_is_the_user_s(site: Site) -> None:
    site.add("slow", "raise KeyboardInterrupt")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(site.discover).result()["slow"].status == "quarantined"


def test_a_plugin_says_who_it_is(site: Site) -> None:
    site.add("Some_Plugin", offering("x"), version="2.3")
    (found,) = site.discover().values()
    assert (found.name, found.distribution, found.version) == ("Some_Plugin:main", "Some_Plugin", "2.3")
    assert found.summary == "a fake, Some_Plugin"
    assert found.seconds > 0


# Versions of the API, told from metadata alone.


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ("dovetail~=9.0", "needs dovetail~=9.0, found dovetail {version}"),
        ("Dovetail>=9", "needs Dovetail>=9, found dovetail {version}"),
        ("dovetail[demo]~=9.0", "needs dovetail~=9.0, found dovetail {version}"),
        ('dovetail~=9.0; python_version >= "3"', "needs dovetail~=9.0, found dovetail {version}"),
        ("dovetail (~=9.0)", "needs dovetail~=9.0, found dovetail {version}"),
        ("dovetail !!", "its requirement 'dovetail !!' cannot be read"),
    ],
)
def test_a_plugin_for_another_version_is_quarantined_without_being_imported(
    site: Site, requires: str, reason: str
) -> None:
    module = site.add("other", offering("x"), requires=["pydantic>=1", requires])
    found = site.discover()["other"]
    assert found.status == "quarantined"
    assert found.reason == reason.format(version=framework_version())
    assert module not in sys.modules


@pytest.mark.parametrize(
    "requires",
    [
        [],
        ["dovetail"],
        ["dovetail>=0.0.1"],
        ["dovetail[test]"],
        ["dovetail @ https://example.org/dovetail.whl"],
        ['dovetail~=9.0; extra == "next"'],
        ['dovetail~=9.0; python_version < "3"'],
        ["dovetail-models-other~=9.0", "dovetail_other~=9.0", "dovetail.thing~=9.0", "dovetails~=9.0"],
    ],
    ids=str,
)
def test_requirements_that_this_version_meets(site: Site, requires: list[str]) -> None:
    site.add("other", offering("x"), requires=requires)
    assert site.discover()["other"].status == "ok"


def test_a_pre_release_of_the_framework_counts(site: Site) -> None:
    site.add("other", offering("x"), requires=["dovetail>=0.1"])
    requires = site.discover()["other"].requires
    assert incompatibility(requires, "0.2.dev1") is None
    assert incompatibility(requires, "0.1.dev1") == "needs dovetail>=0.1, found dovetail 0.1.dev1"


# Installations that are damaged themselves.


def test_a_distribution_without_metadata_is_quarantined(site: Site) -> None:
    site.add("good", offering("x"))
    site.add("bad", offering("y"))
    (site.folder / "bad-1.0.dist-info" / "METADATA").unlink()
    importlib.invalidate_caches()
    bad = [p for p in discover() if p.status == "quarantined"]
    assert [p.name for p in bad] == ["?:?"]
    assert bad[0].reason.startswith("its metadata cannot be read (")
    assert bad[0].summary == ""
    assert site.discover()["good"].status == "ok"


def test_entry_points_that_are_no_list_are_quarantined(site: Site) -> None:
    site.add("good", offering("x"))
    site.add("bad", offering("y"))
    (site.folder / "bad-1.0.dist-info" / "entry_points.txt").write_text("[dovetail.plugins]\nbad\n")
    importlib.invalidate_caches()
    found = site.discover()
    assert found["good"].status == "ok"
    assert found["bad"].status == "quarantined"
    assert found["bad"].reason.startswith("its metadata cannot be read (")


def test_foreign_metadata_is_no_concern_of_ours(site: Site) -> None:
    info = site.folder / "foreign-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[console_scripts]\nnonsense\n")
    site.add("good", offering("x"))
    assert site.discover()["good"].status == "ok"
    assert not [p for p in discover() if p.status == "quarantined"]


def test_an_entry_point_that_names_no_module_is_quarantined(site: Site) -> None:
    site.add("bad", offering("x"), entries={"main": "not a module"})
    assert site.discover()["bad"].status == "quarantined"


def test_one_module_is_registered_once(site: Site) -> None:
    module = site.add("bad", offering("x"))
    site.add("again", "", entries={"main": module})
    found = {p.status: p for p in site.discover().values()}
    assert found["ok"].cards
    assert found["quarantined"].reason == f"its module {module} is registered by {found['ok'].name} already"


def test_a_distribution_may_bring_several_plugins(site: Site) -> None:
    site.add("many", offering("x"), entries={"one": "many", "two": "many_two"})
    (site.folder / "many_two.py").write_text("raise ValueError")
    site.modules.add("many_two")
    found = {p.name: p.status for p in discover() if p.distribution == "many"}
    assert found == {"many:one": "ok", "many:two": "quarantined"}


def test_the_first_on_the_path_wins(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("twin", offering("new"), version="2.0")
    behind = Site(tmp_path / "behind")
    behind.add("twin", offering("old"))
    behind.add("Twin", offering("old"), version="0.5", entries={"other": "twin"})
    monkeypatch.setattr(sys, "path", [*sys.path, str(behind.folder)])
    found = [p for p in discover() if p.distribution.lower() == "twin"]
    assert [(p.version, [c.name for c in p.cards]) for p in found] == [("2.0", ["new"])]


# The filter.


@pytest.mark.parametrize(
    ("text", "permitted"),
    [
        ("", True),
        (" , ", True),
        ("dovetail-models-llama", True),
        ("Dovetail_Models.Llama", True),
        ("dovetail-*", True),
        ("Dovetail_models_*", True),
        ("dovetail-models-lla?a", True),
        ("*", True),
        ("other, dovetail-models-llama", True),
        ("model:dovetail-models-llama", True),
        ("model:*", True),
        ("*:dovetail-models-llama", True),
        ("-other", True),
        ("other", False),
        ("loader:dovetail-models-llama", False),
        ("-dovetail-models-llama", False),
        ("!dovetail-models-llama", False),
        ("-model:dovetail-models-llama", False),
        ("-model:*", False),
        ("-*", False),
        ("dovetail-*,-dovetail-models-llama", False),
        ("-dovetail-models-llama,dovetail-models-llama", False),
        ("-loader:dovetail-models-llama", True),
        ("model:-dovetail-models-llama", False),
        ("model:!dovetail-*", False),
        ("loader:-dovetail-models-llama", True),
        ("*:-dovetail-models-llama", False),
        ("model:-other", True),
    ],
)
def test_the_filter_permits(text: str, permitted: bool) -> None:
    assert PluginFilter(text).permits("dovetail-models-llama", "model") is permitted


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("text", ["-*", "-dovetail", "other", "-source:*"])
def test_the_framework_s_own_parts_cannot_be_denied(text: str, kind: str | None) -> None:
    assert PluginFilter(text).permits("dovetail", kind)


def test_denying_a_kind_does_not_deny_the_distribution() -> None:
    assert PluginFilter("-model:some").permits("some")
    assert not PluginFilter("-some").permits("some")
    assert PluginFilter("model:some").permits("some")
    assert not PluginFilter("model:some").permits("other")


@pytest.mark.parametrize("text", ["modle:x", "x:", "-", ":x:", "a,kernels:b"])
def test_a_term_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"cannot read the plugin filter term .*; write \[kind:\]distribution.*kinds: model, "
    ):
        PluginFilter(text)


def test_a_denied_plugin_is_not_imported(site: Site) -> None:
    module = site.add("noisy", "raise RuntimeError")
    found = site.discover("-noisy")["noisy"]
    assert (found.status, found.reason, found.cards) == ("denied", "excluded by the plugin filter", [])
    assert module not in sys.modules


def test_a_denied_kind_is_left_out_of_a_plugin_that_stays(site: Site) -> None:
    site.add(
        "both",
        offering("x") + '\n@hookimpl\ndef dovetail_register_sources(): return [SourceCard(name="s", target="s:S")]\n',
    )
    source = site.folder / "both.py"
    source.write_text("from dovetail.api import SourceCard\n" + source.read_text())
    assert [c.kind for c in site.discover("-source:both")["both"].cards] == ["model"]
    site.forget()
    assert [c.kind for c in site.discover("source:both")["both"].cards] == ["source"]


def test_the_environment_filters_unless_the_caller_does(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("some", offering("x"))
    monkeypatch.setenv("DOVETAIL_PLUGINS", "-some")
    assert {p.distribution: p.status for p in discover()}["some"] == "denied"
    assert {p.distribution: p.status for p in discover(PluginFilter(""))}["some"] == "ok"


# Importing what cards name.


@pytest.mark.parametrize("fault", ["raises", "leaves", "panics", "is_no_python", "misses_a_module"])
def test_a_target_that_cannot_be_imported_is_a_plugin_s_error(site: Site, fault: str) -> None:
    module = site.add(fault, BROKEN[fault][0])
    with pytest.raises(PluginError, match=f"^cannot import {module}:thing: .+; reinstall or update the plugin$"):
        import_dotted(f"{module}:thing")


def test_a_target_that_is_not_there_is_a_plugin_s_error(site: Site) -> None:
    with pytest.raises(PluginError, match="cannot import json:nope: AttributeError"):
        import_dotted("json:nope")
    assert import_dotted("json:decoder.JSONDecoder") is importlib.import_module("json").JSONDecoder


def test_a_plugin_of_another_process_is_found_by_the_path_alone(site: Site) -> None:
    site.add("some", offering("x"))
    code = "from dovetail.kernel.discovery import discover; print(*[p.name for p in discover() if p.status == 'ok'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site.folder), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "some:main" in done.stdout.split(), done.stderr

"""What every package of the repository has in common."""

from __future__ import annotations

import re

import pytest

from ..projects import EVERY, FRAMEWORK, PLUGINS, Package

VERSION = FRAMEWORK.project["version"]
SERIES = ".".join(VERSION.split(".")[:2])

package = pytest.mark.parametrize("package", EVERY, ids=lambda p: p.name)
plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)


@package
def test_one_version_for_all(package: Package) -> None:
    assert package.project["version"] == VERSION


@plugin
def test_plugins_require_this_series_of_the_framework(plugin: Package) -> None:
    needs = [need for need in plugin.project["dependencies"] if re.match(r"dovetail(\[\w+\])?~", need)]
    assert [need.partition("~=")[2] for need in needs] == [SERIES]
    others = {p.name for p in PLUGINS}
    required = {need.split("~")[0].split(">")[0].strip() for need in plugin.project["dependencies"]}
    assert not required & others, "a plugin requires another"


def test_the_extras_name_this_series() -> None:
    needs = [n for extra in FRAMEWORK.project["optional-dependencies"].values() for n in extra]
    own = [need for need in needs if need.startswith("dovetail-")]
    assert own
    assert {need.partition("~=")[2] for need in own} == {SERIES}
    assert {need.partition("~=")[0] for need in own} <= {p.name for p in PLUGINS}


@package
def test_what_a_reader_and_a_lawyer_look_for(package: Package) -> None:
    assert package.project["license"] == FRAMEWORK.project["license"]
    assert package.project["requires-python"] == FRAMEWORK.project["requires-python"]
    assert package.project["description"]
    readme = package.path / str(package.project["readme"])
    assert readme.read_text().startswith(f"# {package.name}\n")


@package
def test_every_package_has_tests(package: Package) -> None:
    assert list((package.path / "tests").rglob("test_*.py"))


@plugin
def test_names_follow_from_the_place(plugin: Package) -> None:
    kind, name = plugin.path.parts[-2:]
    assert plugin.name == f"dovetail-{kind}-{name}"
    assert plugin.module == plugin.name.replace("-", "_")
    assert (plugin.path / "src" / plugin.module / "__init__.py").is_file()

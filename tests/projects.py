"""The packages of this repository, as found on disk."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from dovetail.api import Card
from dovetail.kernel.discovery import find_cards

ROOT = Path(__file__).parents[1]
FRAMEWORK_SOURCE = ROOT / "framework" / "src" / "dovetail"


@dataclass(frozen=True)
class Package:
    """One distribution."""

    path: Path

    @cached_property
    def project(self) -> dict[str, Any]:
        found: dict[str, Any] = tomllib.loads((self.path / "pyproject.toml").read_text())["project"]
        return found

    @property
    def name(self) -> str:
        return str(self.project["name"])

    @property
    def module(self) -> str:
        """The module that its entry point names, registering its cards."""
        (module,) = self.project["entry-points"]["dovetail.plugins"].values()
        return str(module)

    @property
    def cards(self) -> list[Card]:
        return find_cards(import_module(self.module))

    def sources(self) -> Iterator[Path]:
        """Its modules; not the templates, which are texts."""
        return (p for p in sorted((self.path / "src").rglob("*.py")) if "templates" not in p.parts)

    def called_in_tests(self) -> set[str]:
        """Names of all functions that its tests call or hand on."""
        trees = (ast.parse(p.read_text()) for p in sorted((self.path / "tests").rglob("*.py")))
        return {
            node.attr if isinstance(node, ast.Attribute) else node.id
            for tree in trees
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute | ast.Name)
        }


FRAMEWORK = Package(ROOT / "framework")
PLUGINS = [Package(p.parent) for p in sorted(ROOT.glob("plugins/*/*/pyproject.toml"))]
EVERY = [FRAMEWORK, *PLUGINS]

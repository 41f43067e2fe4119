"""The examples of docs/clients.md run."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from ..projects import ROOT
from ..serving import Server
from .shared import KEY, MODEL
from .test_node import SCRIPTS, lacking

PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def examples(language: str) -> list[Any]:
    """Each with the heading that it stands under."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        blocks = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        found += [pytest.param(block, id=section.split("\n", 1)[0]) for block in blocks]
    return found


def directed(code: str, server: Server) -> str:
    """The example, with this server's address and key."""
    assert f'"{MODEL}"' in code or f'/{MODEL}"' in code
    return code.replace("http://127.0.0.1:8000", server.url).replace('"none"', f'"{KEY}"')


@pytest.mark.parametrize("code", examples("python"))
def test_in_python(server: Server, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        pytest.importorskip(name)
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(directed(code, server), "docs/clients.md", "exec"), scope)
    if "print(" in code:
        assert "Paris" in capsys.readouterr().out
    else:
        assert "answer" in scope or "town" in scope


@pytest.mark.skipif(bool(reason := lacking()), reason=reason or "")
@pytest.mark.parametrize("code", examples("js"))
def test_in_javascript(server: Server, code: str) -> None:
    command = ["node", "--input-type=module"]
    done = subprocess.run(
        command, input=directed(code, server), cwd=SCRIPTS, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr

"""Clients in JavaScript: OpenAI's, and Vercel's AI SDK. Each script in ``node/`` prints what it got, and is judged here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..serving import Server
from .shared import ANSWER, KEY, MODEL, QUESTION, Town, Weather

SCRIPTS = Path(__file__).with_name("node")
OLDEST = 20


def lacking() -> str | None:
    """Why the scripts cannot run."""
    if (node := shutil.which("node")) is None:
        return f"needs node {OLDEST} or later"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        return f"needs node {OLDEST} or later, found {version}"
    wanted = json.loads((SCRIPTS / "package.json").read_text())["dependencies"]
    absent = [name for name in wanted if not (SCRIPTS / "node_modules" / name).is_dir()]
    return f"needs the packages {', '.join(absent)}: make install" if absent else None


pytestmark = pytest.mark.skipif(bool(reason := lacking()), reason=reason or "")


def run(script: str, server: Server, **environment: str) -> dict[str, Any]:
    told = {"BASE_URL": f"{server.url}/v1", "API_KEY": KEY, "MODEL": MODEL, "QUESTION": QUESTION}
    done = subprocess.run(
        ["node", script], cwd=SCRIPTS, env=os.environ | told | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_openai(server: Server) -> None:
    found = run("openai.mjs", server)
    assert found["models"] == [MODEL]
    assert found["whole"] == found["stream"]["text"] == found["helper"] == ANSWER
    assert found["stream"]["pieces"] > 3
    assert found["usage"][0] == found["usage"][1] > 0
    Town.model_validate(found["parsed"])
    for ran in (found["tools"], found["streamedTools"]):
        assert ran["roles"] == ["user", "assistant", "tool"]
        (given,) = ran["given"]
        Weather.model_validate(given)
    assert found["errors"] == [
        ["NotFoundError", 404, "model_not_found", "model", True],
        ["BadRequestError", 400, "context_length_exceeded", "max_tokens", True],
        ["AuthenticationError", 401, "invalid_api_key", None, True],
    ]


@pytest.mark.parametrize(
    "provider",
    ["compatible", pytest.param("chat", marks=pytest.mark.sweep), pytest.param("responses", marks=pytest.mark.sweep)],
)
def test_ai_sdk(server: Server, provider: str) -> None:
    found = run("ai_sdk.mjs", server, PROVIDER=provider)
    assert found["whole"] == found["stream"]["text"] == ANSWER
    assert found["stream"]["pieces"] > 3
    assert found["reason"] == "stop"
    assert found["usage"][0] == found["usage"][1] > 0
    for name in ("object", "output", "streamedObject"):
        Town.model_validate(found[name])
    (given,) = found["steps"]["given"]
    Weather.model_validate(given)
    assert found["steps"]["reasons"][0] == "tool-calls"
    assert found["steps"]["text"]


def test_embeddings(embedder: Server) -> None:
    found = run("embeddings.mjs", embedder)
    assert len(found["openai"]) == len(found["sdk"]) == 2
    for one, other in zip(found["openai"], found["sdk"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)

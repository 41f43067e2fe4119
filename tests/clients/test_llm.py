"""The command ``llm``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llm")

from ..serving import Server
from .shared import ANSWER, KEY, MODEL, QUESTION, Town

MODELS = """\
- model_id: dovetail
  model_name: {model}
  api_base: {url}/v1
  api_key_name: dovetail
  supports_schema: true
  supports_tools: true
"""


class Llm:
    """The command, with a home of its own and without plugins."""

    def __init__(self, home: Path, url: str) -> None:
        (home / "extra-openai-models.yaml").write_text(MODELS.format(model=MODEL, url=url))
        (home / "keys.json").write_text(json.dumps({"dovetail": KEY}))
        self.environment = os.environ | {"LLM_USER_PATH": str(home), "LLM_LOAD_PLUGINS": ""}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments], env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, *arguments: str, tokens: int = 8) -> str:
        return self("-m", "dovetail", "-o", "temperature", "0", "-o", "max_tokens", str(tokens), *arguments).strip()


@pytest.fixture(scope="module")
def llm(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Llm:
    return Llm(tmp_path_factory.mktemp("llm"), server.url)


def test_an_answer_streamed_and_whole(llm: Llm) -> None:
    assert llm.ask(QUESTION) == ANSWER
    assert llm.ask("--no-stream", QUESTION) == ANSWER


def test_a_conversation_goes_on_and_is_logged_with_its_tokens(llm: Llm) -> None:
    llm.ask(QUESTION)
    assert llm.ask("-c", "And of Spain?")
    first, second = json.loads(llm("logs", "-n", "2", "--json"))
    assert first["conversation_id"] == second["conversation_id"]
    assert second["input_tokens"] > first["input_tokens"] > 0
    assert second["output_tokens"] > 0


def test_a_schema(llm: Llm) -> None:
    text = llm.ask("--schema", json.dumps(Town.model_json_schema()), QUESTION, tokens=30)
    Town.model_validate_json(text)

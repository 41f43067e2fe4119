"""Import paths of vLLM's: each gives names that Dovetail has elsewhere, and brings nothing heavy unless the real one does."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import dovetail

PATHS = {
    "sampling_params": [
        "SamplingParams",
        "BeamSearchParams",
        "RequestOutputKind",
        "StructuredOutputsParams",
        "GuidedDecodingParams",
    ],
    "pooling_params": ["PoolingParams"],
    "inputs": ["PromptType", "TextPrompt", "TokensPrompt"],
    "outputs": ["RequestOutput", "CompletionOutput", "PoolingRequestOutput", "EmbeddingRequestOutput", "ScoringOutput"],
    "lora.request": ["LoRARequest"],
    "engine.arg_utils": ["EngineArgs", "AsyncEngineArgs"],
    "engine.async_llm_engine": ["AsyncLLMEngine"],
    "v1.engine.async_llm": ["AsyncLLM"],
}
HEAVY_PATHS = {"engine.llm_engine": ["LLMEngine"], "v1.engine.llm_engine": ["LLMEngine"], "entrypoints.llm": ["LLM"]}
OTHER_PATHS = {
    "distributed": "cleanup_dist_env_and_memory",
    "distributed.parallel_state": "destroy_model_parallel",
    "logprobs": "Logprob",
    "transformers_utils.tokenizer": "get_tokenizer",
    "entrypoints.openai.api_server": "main",
    "utils": "random_uuid",
    "utils.argparse_utils": "FlexibleArgumentParser",
    "v1.engine.exceptions": "EngineDeadError",
    "engine.async_llm_engine": "AsyncEngineDeadError",
}


@pytest.mark.parametrize("path", [*PATHS, *HEAVY_PATHS])
def test_paths_give_the_names_of_the_top(path: str) -> None:
    for name in {**PATHS, **HEAVY_PATHS}[path]:
        assert getattr(import_module(f"dovetail.{path}"), name) is getattr(dovetail, name)


@pytest.mark.parametrize("path", OTHER_PATHS)
def test_paths_that_give_other_names(path: str) -> None:
    assert callable(getattr(import_module(f"dovetail.{path}"), OTHER_PATHS[path]))


def test_nothing_heavy_comes_with_them() -> None:
    paths = [*PATHS, *OTHER_PATHS]
    script = f"import sys, importlib\nfor path in {paths}: importlib.import_module('dovetail.' + path)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr


def test_the_server_starts_under_the_other_path_too() -> None:
    command = [sys.executable, "-m", "dovetail.entrypoints.openai.api_server", "--model", "no/such-folder.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no/such-folder.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_for_requests() -> None:
    from dovetail.utils import random_uuid

    assert len(random_uuid()) == 32
    assert random_uuid() != random_uuid()

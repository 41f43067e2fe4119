"""What the cards do not say: memory, its variable, and what a request leaves behind."""

from __future__ import annotations

import math

import pytest
import torch
from dovetail_backends_cpu.attention import SdpaAttention
from dovetail_backends_cpu.platform import SPACE_VARIABLE, CpuPlatform

from dovetail.api import UsageError
from dovetail.nn import AttentionSpec, Step


def test_the_cache_gets_what_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPACE_VARIABLE, "0.25")
    assert CpuPlatform().kv_cache_bytes(1.0) == 2**28


def test_the_cache_never_gets_more_than_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPACE_VARIABLE, "1000000")
    assert CpuPlatform().kv_cache_bytes(1.0) <= CpuPlatform().memory().total


@pytest.mark.parametrize("text", ["", "lots", "0", "-1", "nan", "inf"])
def test_a_variable_that_is_no_amount_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPACE_VARIABLE, text)
    with pytest.raises(UsageError, match=SPACE_VARIABLE):
        CpuPlatform().kv_cache_bytes(0.9)


def test_nothing_that_a_block_held_before_is_seen() -> None:
    backend = SdpaAttention(device=torch.device("cpu"), dtype=torch.float32, kv_dtype=torch.float32, block_size=4)
    spec = AttentionSpec(heads=2, kv_heads=1, head_dim=8, scale=0.5)
    cache = backend.allocate(spec, 3)
    cache.fill_(math.nan)
    length = 0
    for tokens in (2, 1, 1, 1):  # a prefill, then decoding into the next block
        start, length = length, length + tokens
        positions = torch.arange(start, length)
        step = Step(
            tokens=positions,
            positions=positions,
            query_start=torch.tensor([0, tokens], dtype=torch.int32),
            seq_lens=torch.tensor([length], dtype=torch.int32),
            block_tables=torch.tensor([[1, 2]], dtype=torch.int32),
            slots=4 + positions,
            logit_rows=torch.tensor([tokens - 1]),
        )
        step.attention = backend.prepare(step, frozenset({spec}))
        q, k, v = torch.randn(tokens, 2, 8), torch.randn(tokens, 1, 8), torch.randn(tokens, 1, 8)
        assert backend.forward(q, k, v, cache, step, spec).isfinite().all()


def test_memory_is_plausible() -> None:
    memory = CpuPlatform().memory()
    assert 0 < memory.free <= memory.total

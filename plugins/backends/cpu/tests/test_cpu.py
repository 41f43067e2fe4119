"""What the cards do not say: memory, its variable, and what a request leaves behind."""

from __future__ import annotations

import math
import platform as platform_module
import sys

import psutil
import pytest
import torch
from dovetail_backends_cpu.attention import SdpaAttention
from dovetail_backends_cpu.platform import SPACE_VARIABLE, CpuPlatform

from dovetail.api import UsageError
from dovetail.nn import AttentionSpec, HostLengths, KVIndex, Step
from dovetail.testing import BlockTables


def test_the_cache_gets_what_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPACE_VARIABLE, "0.25")
    assert CpuPlatform().kv_cache_bytes(1.0, 0) == 2**28


def test_the_cache_never_gets_more_than_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPACE_VARIABLE, "1000000")
    assert CpuPlatform().kv_cache_bytes(1.0, 0) <= CpuPlatform().memory().total


@pytest.mark.parametrize("text", ["", "lots", "0", "-1", "nan", "inf"])
def test_a_variable_that_is_no_amount_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPACE_VARIABLE, text)
    with pytest.raises(UsageError, match=SPACE_VARIABLE):
        CpuPlatform().kv_cache_bytes(0.9, 0)


def test_nothing_that_a_block_held_before_is_seen() -> None:
    backend = SdpaAttention(device=torch.device("cpu"), dtype=torch.float32, kv_dtype=torch.float32, block_size=4)
    spec = AttentionSpec(num_heads=2, num_kv_heads=1, head_dim=8, scale=0.5)
    cache = backend.allocate(spec, 3)
    for rows in cache:
        rows[1:] = math.nan  # nobody writes to block 0
    length = 0
    for tokens in (2, 1, 1, 1):  # a prefill, then decoding into the next block
        start, length = length, length + tokens
        positions = torch.arange(start, length)
        step = Step(
            tokens=positions,
            positions=positions,
            query_start=torch.tensor([0, tokens], dtype=torch.int32),
            seq_lens=torch.tensor([length], dtype=torch.int32),
            logits_indices=torch.tensor([tokens - 1]),
            kv=(index := KVIndex(torch.tensor([[1, 2]], dtype=torch.int32), 4 + positions),),
            max_query_len=tokens,
            max_seq_len=length,
            lengths=HostLengths([tokens], [length]),
        )
        index.metadata = backend.prepare(step, index, frozenset({spec}))
        q, k, v = torch.randn(tokens, 2, 8), torch.randn(tokens, 1, 8), torch.randn(tokens, 1, 8)
        assert backend.forward(q, k, v, cache, step, index, spec).isfinite().all()


def test_a_cache_in_8_bits_holds_numbers_that_are_too_large_as_the_largest() -> None:
    dtype = torch.float8_e4m3fn
    backend = SdpaAttention(device=torch.device("cpu"), dtype=torch.float32, kv_dtype=dtype, block_size=4)
    spec = AttentionSpec(num_heads=1, num_kv_heads=1, head_dim=8, scale=1.0)
    cache = backend.allocate(spec, 2)
    assert sum(rows.nbytes for rows in cache) == 2 * backend.block_bytes(spec)
    step = BlockTables([1], 4, spare=0).step({0: [0]}, backend.device)
    (index,) = step.kv
    index.metadata = backend.prepare(step, index, frozenset({spec}))
    v = torch.full((1, 1, 8), -1e6)
    out = backend.forward(torch.ones(1, 1, 8), torch.full((1, 1, 8), 1e6), v, cache, step, index, spec)
    assert torch.equal(out, torch.full((1, 1, 8), -448.0))


def test_what_was_freed_can_be_given_back() -> None:
    platform = CpuPlatform()
    held = [torch.ones(1 << 14) for _ in range(4000)]
    last = torch.ones(1 << 14)  # keeps the heap's end in use
    before = psutil.Process().memory_info().rss
    del held
    platform.release()
    if sys.platform == "linux" and platform_module.libc_ver()[0] == "glibc":
        assert psutil.Process().memory_info().rss < before - 4000 * last.nbytes // 2


def test_memory_is_plausible() -> None:
    memory = CpuPlatform().memory()
    assert 0 < memory.free <= memory.total

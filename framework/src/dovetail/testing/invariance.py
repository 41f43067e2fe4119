"""Tests of batch invariance: a token's result is bitwise the same whatever else is in the batch.

Letters: T tokens, H query heads, K key-value heads, D head dimension, C channels, N output features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from dovetail.nn import AttentionBackend, AttentionSpec, Platform
from dovetail.nn.ops import ACTIVATIONS, Ops
from dovetail.testing.attention_layers import LayerInputs, LayerUnderTest, draw_sinks
from dovetail.testing.comparison import dtype_of
from dovetail.testing.harness import BlockTables

TOKENS = 513
SLICES = ((0, 1), (5, 6), (TOKENS - 1, TOKENS), (3, 5), (10, 13), (20, 37), (0, 64), (64, 131), (1, 400))
"""Rows that are also computed alone."""


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _ropes(dtype: torch.dtype) -> tuple[Any, ...]:
    angles = 100 * _random(TOKENS, 40)
    return _random(TOKENS, 5, 80).to(dtype), angles.cos(), angles.sin()


def _rows(dtype: torch.dtype) -> tuple[Any, ...]:
    """No multiple of a vector's length, so that it shows if a row's place in the tensor matters."""
    return (4 * _random(TOKENS, 1000).to(dtype),)


def _gated(dtype: torch.dtype) -> tuple[Any, ...]:
    return (4 * _random(TOKENS, 2 * 1000).to(dtype),)


def _newest() -> tuple[Tensor, Tensor]:
    """Of more rows than the step has: their newest tokens and blocks."""
    rows = TOKENS + 3
    return torch.arange(rows), torch.arange(6 * rows, dtype=torch.int32).view(rows, 6)


ARGUMENTS: dict[str, Callable[[torch.dtype], tuple[Any, ...]]] = {
    "rms_norm": lambda dtype: (_random(TOKENS, 576).to(dtype), _random(576).to(dtype), 1e-5),
    "add_rms_norm": lambda dtype: (
        _random(TOKENS, 576).to(dtype),
        _random(TOKENS, 577)[:, 1:].to(dtype),
        _random(576).to(dtype),
        1e-5,
    ),
    "layer_norm": lambda dtype: (_random(TOKENS, 577).to(dtype), _random(577), _random(578)[1:], 1e-5),
    "add_layer_norm": lambda dtype: (
        _random(TOKENS, 577).to(dtype),
        _random(TOKENS, 578)[:, 1:].to(dtype),
        _random(577),
        _random(578)[1:],
        1e-5,
    ),
    "rope": _ropes,
    "softcap": lambda dtype: (*_rows(dtype), 3.0),
    "route": lambda dtype: (_random(TOKENS, 60).to(dtype), 4),
    "linear": lambda dtype: (_random(TOKENS, 576).to(dtype), _random(960, 576).to(dtype)),
    "linear_by_head": lambda dtype: (_random(TOKENS, 2, 192).to(dtype), _random(2, 320, 192).to(dtype)),
    "embed": lambda dtype: (torch.arange(TOKENS) % 60, _random(60, 40).to(dtype)),
    "decode_inputs": lambda dtype: (torch.arange(TOKENS), 1 + torch.arange(TOKENS) % 90, *_newest(), 16),
    "likeliest": _rows,
    "rope_angles": lambda dtype: (7 * torch.arange(TOKENS), _random(40).abs(), 1.5, dtype),
    **{activation.__name__: _rows for activation in ACTIVATIONS},
    **{f"{activation.__name__}_mul": _gated for activation in ACTIVATIONS},
}
"""Operation → arguments for its test; those that begin with T hold a row for each token."""


def check_operations_by_row(platform: Platform, dtype: str, text: str) -> None:
    """Check that each of the platform's operations gives a row the same bits alone, with few and with many other rows.

    Raises:
        AssertionError: names the operation, and the rows that differ.
    """
    ops = Ops(platform.operations())
    for name, make in ARGUMENTS.items():
        arguments = [a.to(platform.device) if isinstance(a, Tensor) else a for a in make(dtype_of(dtype))]
        check_rows(getattr(ops, name), arguments, f"{text}: {name} in {dtype}")


def check_rows(operation: Callable[..., Any], arguments: Sequence[Any], text: str) -> None:
    """Check one operation.

    Args:
        arguments: tensors whose first dimension is that of the first one have a row for each token.

    Raises:
        AssertionError: names the rows that differ.
    """
    rows = len(arguments[0])
    with torch.inference_mode():
        whole = _first(operation(*arguments))
        for start, stop in SLICES if rows == TOKENS else ((0, 1), (rows - 1, rows), (0, -(-rows // 2))):
            part = [a[start:stop] if isinstance(a, Tensor) and len(a) == rows else a for a in arguments]
            assert torch.equal(_first(operation(*part)), whole[start:stop]), (
                f"{text} gives rows {start} to {stop - 1} other bits alone than among {rows}"
            )


def _first(answer: Any) -> Tensor:
    found: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return found


LENGTH = 700
"""Tokens of the tested request."""
OTHERS = 63
"""Other requests in the batch."""
DECODED = 9
"""Its last tokens, computed one at a time with other requests."""
Schedule = Sequence[Mapping[int, int]]


def _schedules() -> dict[str, Schedule]:
    """Ways to compute request 0: (request → new tokens) of each step."""
    sizes = cycle((1, 2, 3, 61, 64, 5, 130, 1, 7, 258))
    chunks: list[dict[int, int]] = []
    while (done := sum(c[0] for c in chunks)) < LENGTH:
        chunks.append({0: min(next(sizes), LENGTH - done)})
    before = LENGTH - DECODED
    crowd = range(1, OTHERS + 1)
    # Its neighbours are of all lengths, and bring one token each or several.
    prompts = {r: 1 + 9 * r for r in crowd}
    decoding = [{**dict.fromkeys(crowd, 1), 0: 1}, {0: 1}, {1: 2, 0: 1, **dict.fromkeys(range(2, 40), 1)}]
    return {
        "in chunks": chunks,
        "decoded alone": [{0: before}, *({0: 1} for _ in range(DECODED))],
        "decoded in a batch": [{**prompts, 0: before}, *(decoding[i % 3] for i in range(DECODED))],
        "in chunks beside prompts": [{1: 5, 0: 90, 2: 33}, {3: 1, 4: 300, 0: LENGTH - 93, 1: 1}, {2: 1, 0: 3, 3: 1}],
    }


def _whole_schedules() -> dict[str, Schedule]:
    """Ways to compute request 0 where every request is computed whole."""
    crowd = {r: 1 + 9 * r for r in range(1, OTHERS + 1)}
    return {
        "first in a batch": [{0: LENGTH, 1: 5, 2: 33}],
        "last in a batch": [{**crowd, 0: LENGTH}],
        "among others of one token": [{1: 1, 2: 1, 0: LENGTH, 3: 1}],
    }


def check_attention_by_token(make: Callable[[], AttentionBackend], spec: AttentionSpec, text: str) -> None:
    """Check that a backend gives each token of a request the same bits, however the request is divided into steps,
    whatever else is in them, and wherever its blocks are.

    Raises:
        AssertionError: names the batch in which a token's bits change.
    """
    whole = _run(make(), spec, [{0: LENGTH}], seed=0)
    schedules = _schedules() if spec.causal else _whole_schedules()
    for seed, (name, schedule) in enumerate(schedules.items(), 1):
        found = _run(make(), spec, schedule, seed)
        differing = (found != whole).flatten(1).any(1).nonzero().flatten().tolist()
        assert not differing, (
            f"{text}: the request computed {name} gives other bits than whole, at tokens {differing[:8]}"
        )


def _run(backend: AttentionBackend, spec: AttentionSpec, schedule: Schedule, seed: int) -> Tensor:
    """The output of request 0, ``[T, H, V]``."""
    totals = [sum(step.get(r, 0) for step in schedule) for r in range(OTHERS + 1)]
    tables = BlockTables(totals, backend.block_size, seed=seed)
    layer = LayerUnderTest(backend, spec, tables.blocks)
    heads, size = spec.num_heads + 2 * spec.num_kv_heads, max(spec.head_dim, spec.values)
    own_generator = torch.Generator().manual_seed(7)
    own = 2 * torch.randn(LENGTH, heads, size, generator=own_generator)
    sinks = draw_sinks(spec, own_generator)
    generator = torch.Generator().manual_seed(seed)
    found = []
    with torch.inference_mode():
        for entries in schedule:
            done = tables.computed[0]
            step = tables.step({r: [0] * n for r, n in entries.items()}, backend.device, (spec,))
            qkv = torch.randn(len(step.tokens), heads, size, generator=generator)
            first = sum(n for r, n in entries.items() if list(entries).index(r) < list(entries).index(0))
            mine = slice(first, first + entries[0])
            qkv[mine] = own[done : done + entries[0]]
            q, k, v = qkv.to(backend.dtype).split([spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], 1)
            inputs = LayerInputs(
                q[..., : spec.head_dim], k[..., : spec.head_dim], None if spec.latent else v[..., : spec.values], sinks
            )
            found.append(layer.run(step, inputs.to(backend.device))[mine].cpu())
    return torch.cat(found)

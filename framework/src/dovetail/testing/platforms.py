"""Conformance tests of platforms.

Letters: T tokens, H heads, D head dimension, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dovetail.api import PlatformCard
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.resolve import find_platform
from dovetail.nn import Platform
from dovetail.nn.ops import REFERENCES, Ops
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.invariance import check_operations_by_row
from dovetail.testing.resolution import assert_refused, claim, make_registry, skip_unless_present

Arguments = tuple[Any, ...]


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _norms(dtype: torch.dtype) -> list[Arguments]:
    return [(_random(t, c).to(dtype), (1 + 0.1 * _random(c)).to(dtype), 1e-5) for t, c in ((1, 64), (7, 80), (33, 576))]


def _added_norms(dtype: torch.dtype) -> list[Arguments]:
    return [
        (x, _random(x.shape[1], x.shape[0]).T.contiguous().to(dtype), weight, eps) for x, weight, eps in _norms(dtype)
    ]


def _ropes(dtype: torch.dtype) -> list[Arguments]:
    found: list[Arguments] = []
    for tokens, heads, dim, rotated in ((1, 4, 64, 64), (7, 3, 80, 80), (9, 2, 64, 32)):
        angles = 100 * _random(tokens, rotated // 2)
        x = _random(tokens, heads, dim).to(dtype)
        found += [(x, angles.cos(), angles.sin(), interleaved) for interleaved in (False, True)]
    return found


def _products(dtype: torch.dtype) -> list[Arguments]:
    return [
        (_random(t, k).to(dtype), _random(n, k).to(dtype)) for t, k, n in ((1, 64, 33), (7, 80, 96), (33, 576, 192))
    ]


def _weights(dtype: torch.dtype) -> list[Arguments]:
    return [(weight,) for _, weight in _products(dtype)]


def _gated(dtype: torch.dtype) -> list[Arguments]:
    return [(_random(t, 2 * c).to(dtype),) for t, c in ((1, 64), (7, 80), (33, 576))]


SAMPLES: dict[str, Callable[[torch.dtype], list[Arguments]]] = {
    "rms_norm": _norms,
    "add_rms_norm": _added_norms,
    "rope": _ropes,
    "silu_mul": _gated,
    "gelu_tanh_mul": _gated,
    "linear": _products,
    "lay_out": _weights,
}
"""Operation → arguments for its test, for every operation of :mod:`dovetail.nn.ops`."""


def check_platform(card: PlatformCard) -> None:
    """Check every claim of a platform's card.

    Checks the probe's result; the device; that memory numbers are consistent, and that the KV cache's share grows with
    the utilization and fits; that each claimed dtype computes; and each claimed operation against its reference, in
    each claimed dtype. If the platform says that it is batch invariant, every operation must give a row the same bits
    alone and with other rows.

    Raises:
        AssertionError: names the claim that failed.
        SkipTest: the probe rejects this machine.
    """
    assert card.default_dtype in card.dtypes, f"{label(card)}: its default dtype {card.default_dtype} is not claimed"
    refused = partial(find_platform, PlanOptions(device="no-such-device"), make_registry(card), [])
    assert_refused(refused, f"{label(card)} does not claim no-such-device", "no-such-device")
    skip_unless_present(card, card.probe)
    with claim(f"{label(card)}: making its platform"):
        platform: Platform = import_dotted(card.target)()
    assert platform.device.type == card.device, (
        f"{label(card)} claims the device {card.device}, but is {platform.device}"
    )
    with claim(label(card)):
        _check_facts(card, platform)
    for dtype in card.dtypes:
        with claim(f"{label(card)} claims {dtype}"):
            _check_dtype(card, platform, dtype)
            _check_operations(card, platform, dtype)
            if platform.batch_invariant:
                check_operations_by_row(platform, dtype, f"{label(card)} claims to be batch invariant")


def _check_facts(card: PlatformCard, platform: Platform) -> None:
    memory = platform.memory()
    assert 0 < memory.free <= memory.total, f"{label(card)}: memory() says {memory.free} of {memory.total} bytes free"
    shares = [platform.kv_cache_bytes(utilization, 0) for utilization in (0.1, 0.5, 0.9)]
    assert all(isinstance(share, int) for share in shares), f"{label(card)}: kv_cache_bytes() is not a whole number"
    assert all(0 <= share <= memory.total for share in shares), (
        f"{label(card)}: kv_cache_bytes() is out of memory's bounds: {shares}"
    )
    # Free memory moves while this runs, so a share may shrink a little.
    slack = memory.total // 20
    assert all(a <= b + slack for a, b in pairwise(shares)), (
        f"{label(card)}: kv_cache_bytes() does not grow with the utilization: {shares}"
    )
    everything = platform.kv_cache_bytes(0.9, memory.total)
    assert everything == 0, f"{label(card)}: kv_cache_bytes() gives {everything} bytes where all memory is reserved"
    text = platform.describe()
    assert len(text.strip().splitlines()) == 1, f"{label(card)}: describe() is not one line: {text!r}"


def _check_dtype(card: PlatformCard, platform: Platform, dtype: str) -> None:
    a, b = _random(17, 64).to(dtype_of(dtype)), _random(64, 33).to(dtype_of(dtype))
    found = a.to(platform.device) @ b.to(platform.device)
    assert_close(
        found, a.double() @ b.double(), tolerance(dtype_of(dtype), 2), f"{label(card)} claims {dtype}: a product"
    )


def _check_operations(card: PlatformCard, platform: Platform, dtype: str) -> None:
    claimed = platform.operations()
    Ops(claimed)  # raises for a name that is no operation
    for name, operation in claimed.items():
        text = f"{label(card)} claims the operation {name} in {dtype}"
        for arguments in SAMPLES[name](dtype_of(dtype)):
            given = [a.to(platform.device, copy=True) if isinstance(a, Tensor) else a for a in arguments]
            found = _results(operation(*given))
            expected = _results(REFERENCES[name](*arguments))
            assert len(found) == len(expected), f"{text}: gives {len(found)} results, wanted {len(expected)}"
            for f, w in zip(found, expected, strict=True):
                assert f.dtype == w.dtype, f"{text}: the result is {f.dtype}, wanted {w.dtype}"
                assert_close(f, w, tolerance(w.dtype, 2), text)
            for before, after in zip(arguments, given, strict=True):
                if isinstance(before, Tensor):
                    assert torch.equal(before, after.cpu()), f"{text}: an argument is changed"


def _results(answer: Any) -> tuple[Tensor, ...]:
    return answer if isinstance(answer, tuple) else (answer,)

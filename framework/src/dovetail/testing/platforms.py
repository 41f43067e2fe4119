"""Conformance tests of platforms.

Letters: T tokens, H heads, D head dimension, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dovetail.api import PlatformCard
from dovetail.engine.step.checked_platform import open_platform
from dovetail.kernel.blame import wrong_answer
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.resolve import find_platform
from dovetail.nn import Memory, Platform
from dovetail.nn.ops import ACTIVATIONS, REFERENCES, Ops, layer_norm, rms_norm
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.invariance import check_operations_by_row, check_rows
from dovetail.testing.resolution import assert_refused, claim, make_registry, part_of, skip_unless_present

Arguments = tuple[Any, ...]


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@dataclass(frozen=True)
class OperationSample:
    """A test of an operation that a plugin adds and a platform claims.

    Attributes:
        reference: the plugin's own implementation, which models give to :meth:`dovetail.nn.Context.op`.
        arguments: dtype of activations → lists of arguments. If the platform is batch invariant, tensors whose first
            dimension is that of the first argument have a row for each token.
    """

    reference: Callable[..., Any]
    arguments: Callable[[torch.dtype], list[Arguments]]


SIZES = ((1, 64), (7, 80), (33, 576))


def _scale(size: int, dtype: torch.dtype) -> Tensor:
    return (1 + 0.1 * _random(size)).to(dtype)


def _norms(dtype: torch.dtype) -> list[Arguments]:
    """The scale in the dtype of activations, and in float32."""
    weights = dict.fromkeys((dtype, torch.float32))
    return [(3 * _random(t, c).to(dtype), _scale(c, weight), 1e-5) for t, c in SIZES for weight in weights]


def _layer_norms(dtype: torch.dtype) -> list[Arguments]:
    """With scale and bias, in float32 and in the dtype of activations, and without either."""
    found: list[Arguments] = []
    for t, c in SIZES:
        x, bias = 1 + 3 * _random(t, c).to(dtype), _random(c, 1).flatten()
        found += [(x, _scale(c, weight), bias.to(weight), 1e-5) for weight in dict.fromkeys((dtype, torch.float32))]
        found += [(x, _scale(c, torch.float32), None, 1e-5), (x, None, bias, 1e-5), (x, None, None, 1e-5)]
    return found


def _added(norms: Callable[[torch.dtype], list[Arguments]], dtype: torch.dtype) -> list[Arguments]:
    """The arguments of a norm, with a residual behind the first."""
    return [(x, _random(x.shape[1], x.shape[0]).T.contiguous().to(dtype), *others) for x, *others in norms(dtype)]


def _rows(dtype: torch.dtype) -> list[Arguments]:
    """Numbers of both signs, and large ones."""
    return [(factor * _random(t, c).to(dtype),) for (t, c), factor in zip(SIZES, (1, 4, 20), strict=True)]


def _capped(dtype: torch.dtype) -> list[Arguments]:
    return [(x, cap) for (x,), cap in zip(_rows(dtype), (30.0, 50.0, 5.0), strict=True)]


def _routes(dtype: torch.dtype) -> list[Arguments]:
    """As different families choose; no two scores are so close that rounding decides."""
    logits = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(9)])
    logits = logits.to(dtype) / 4 - 2
    bias = torch.linspace(0, 0.001, 16)
    return [
        (logits, 2),
        (logits, 4, "softmax", False),
        (logits, 3, "sigmoid", True, bias, 4, 2, 2.5),
        (logits, 3, "softmax", False, None, 4, 1, 16.0),
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


def _products_by_head(dtype: torch.dtype) -> list[Arguments]:
    found: list[Arguments] = []
    for t, h, k, n in ((1, 3, 64, 33), (7, 2, 80, 96), (33, 4, 192, 64)):
        x, weight = _random(t, h, k).to(dtype), _random(h, n, k).to(dtype)
        found += [(x, weight), (x, weight.mT.contiguous().mT)]
    return found


def _weights(dtype: torch.dtype) -> list[Arguments]:
    return [(weight,) for _, weight in _products(dtype)]


def _gated(dtype: torch.dtype) -> list[Arguments]:
    return [(_random(t, 2 * c).to(dtype),) for t, c in ((1, 64), (7, 80), (33, 576))]


def _tables(dtype: torch.dtype) -> list[Arguments]:
    ids = torch.tensor([4, 0, 4, 10])
    return [(ids[:count], _random(11, 24).to(dtype)) for count in (1, 4)]


def _decodes(dtype: torch.dtype) -> list[Arguments]:
    rows, lengths = torch.tensor([2, 0, 5]), torch.tensor([33, 1, 48])
    newest, table = 100 + torch.arange(6), torch.arange(6 * 1300, dtype=torch.int32).view(6, 1300)
    return [(rows, lengths, newest, table[:, :width], 16) for width in (3, 1200)]


def _angles(dtype: torch.dtype) -> list[Arguments]:
    positions = torch.tensor([0, 1, 77, 131071])
    return [
        (positions, 500000.0 ** -torch.linspace(0, 1, pairs), factor, dtype) for pairs, factor in ((32, 1.0), (40, 1.5))
    ]


def _scores(dtype: torch.dtype) -> list[Arguments]:
    equal = torch.zeros(3, 5000, dtype=dtype)
    equal[1, 4000:] = equal[2, 70:90] = 1.0
    return [(equal,), *((_random(lines, vocabulary).to(dtype),) for lines, vocabulary in ((1, 50), (5, 3001)))]


SAMPLES: dict[str, Callable[[torch.dtype], list[Arguments]]] = {
    "rms_norm": _norms,
    "add_rms_norm": partial(_added, _norms),
    "layer_norm": _layer_norms,
    "add_layer_norm": partial(_added, _layer_norms),
    "rope": _ropes,
    "softcap": _capped,
    "route": _routes,
    "linear": _products,
    "linear_by_head": _products_by_head,
    "embed": _tables,
    "decode_inputs": _decodes,
    "rope_angles": _angles,
    "likeliest": _scores,
    "lay_out": _weights,
    **{activation.__name__: _rows for activation in ACTIVATIONS},
    **{f"{activation.__name__}_mul": _gated for activation in ACTIVATIONS},
}
"""Operation → arguments for its test, for every operation of :mod:`dovetail.nn.ops`."""


def check_platform(card: PlatformCard, operations: Mapping[str, OperationSample] | None = None) -> None:
    """Check every claim of a platform's card.

    Checks the probe's result; the device; that memory numbers are consistent, and that the KV cache's share grows with
    the utilization and fits; that each claimed dtype computes; and each claimed operation against its reference, in
    each claimed dtype. If the platform says that it is batch invariant, every operation must give a row the same bits
    alone and with other rows.

    Args:
        operations: name → how to test it, for every claimed operation that a plugin adds (``package.operation``).

    Raises:
        AssertionError: names the claim that failed.
        SkipTest: the probe rejects this machine.
    """
    assert card.default_dtype in card.dtypes, f"{label(card)}: its default dtype {card.default_dtype} is not claimed"
    refused = partial(find_platform, PlanOptions(device="no-such-device"), make_registry(card), [])
    assert_refused(refused, f"{label(card)} does not claim no-such-device", "no-such-device")
    skip_unless_present(card, card.probe)
    with claim(f"{label(card)}: making its platform"):
        platform = open_platform(part_of(card))
    assert platform.device.type == card.device, (
        f"{label(card)} claims the device {card.device}, but is {platform.device}"
    )
    with claim(label(card)):
        _check_facts(card, platform)
    for dtype in card.dtypes:
        with claim(f"{label(card)} claims {dtype}"):
            _check_dtype(card, platform, dtype)
            _check_operations(card, platform, dtype, operations or {})
            if platform.batch_invariant:
                check_operations_by_row(platform, dtype, f"{label(card)} claims to be batch invariant")


def _check_facts(card: PlatformCard, platform: Platform) -> None:
    memory = platform.memory()
    if not isinstance(memory, Memory):
        raise wrong_answer(part_of(card), "memory()", memory, "a Memory")
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


def _check_operations(
    card: PlatformCard, platform: Platform, dtype: str, of_plugins: Mapping[str, OperationSample]
) -> None:
    claimed = platform.operations()
    Ops(claimed)  # raises for a name that is no operation
    for name, operation in claimed.items():
        text = f"{label(card)} claims the operation {name} in {dtype}"
        known = name in REFERENCES or name in of_plugins
        assert known, f"{text}, which a plugin adds: give check_platform a sample of it"
        sample = OperationSample(REFERENCES[name], SAMPLES[name]) if name in REFERENCES else of_plugins[name]
        for arguments in sample.arguments(dtype_of(dtype)):
            check_operation(operation, sample.reference, arguments, platform.device, text)
            if platform.batch_invariant and name in of_plugins:
                given = [a.to(platform.device) if isinstance(a, Tensor) else a for a in arguments]
                check_rows(operation, given, f"{label(card)} claims to be batch invariant: {name} in {dtype}")


def check_operation(
    operation: Callable[..., Any], reference: Callable[..., Any], arguments: Arguments, device: torch.device, text: str
) -> None:
    """Check that an operation does what its reference does, and leaves its arguments as they are.

    Args:
        device: where the operation runs; the reference runs on the host.

    Raises:
        AssertionError: begins with ``text``.
    """
    given = [a.to(device, copy=True) if isinstance(a, Tensor) else a for a in arguments]
    found, expected = _results(operation(*given)), _results(reference(*arguments))
    assert len(found) == len(expected), f"{text}: gives {len(found)} results, wanted {len(expected)}"
    for f, w in zip(found, expected, strict=True):
        assert f.dtype == w.dtype, f"{text}: the result is {f.dtype}, wanted {w.dtype}"
        if w.dtype.is_floating_point:
            assert_close(f, w, tolerance(w.dtype, _roundings(reference, arguments)), text)
        else:
            assert torch.equal(f.cpu(), w), f"{text}: the result is {f}, wanted {w}"
    for before, after in zip(arguments, given, strict=True):
        if isinstance(before, Tensor):
            assert torch.equal(before, after.cpu()), f"{text}: an argument is changed"


def _roundings(reference: Callable[..., Any], arguments: Arguments) -> float:
    """By how many roundings results may differ. A norm with a float32 scale rounds once, at its end, so that results
    only differ where float32's own rounding decides; any other order of roundings is another norm.
    """
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    wide = reference in (rms_norm, layer_norm) and any(a.dtype == torch.float32 for a in tensors[1:])
    return 0.1 if wide else 2


def _results(answer: Any) -> tuple[Tensor, ...]:
    return answer if isinstance(answer, tuple) else (answer,)

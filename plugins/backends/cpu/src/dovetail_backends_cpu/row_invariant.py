"""Batch-invariant operations: a row's result has the same bits whatever other rows there are, and however many.

Two things in torch break that. First, MKL's float32 product uses other code for few rows, and splits them by threads.
oneDNN's, which torch uses for bfloat16 anyway, has only one other path, for a single row, and is faster. (If a
processor lacks instructions for bfloat16, or computes with tiles (AMX), oneDNN's product in that dtype does depend on the
number of rows: :func:`is_row_invariant` detects that, and :func:`avoid_tiles` keeps oneDNN from tiles.) Its float32 product gets weights in column-major order: with row-major weights,
torch 2.11 on an Intel Xeon depends on the number of rows too. Second, torch computes exponentials differently in whole
vectors than after the last whole one, so the result depends on where a thread's share of a tensor begins and ends.

Letters: T rows, K columns, N output features, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.nn import ops

GRAIN = 1 << 15
"""Minimum number of elements that torch gives to a thread of an elementwise operation, if there are enough for all
threads.
"""
ROWS = 4
"""Minimum number of rows. oneDNN uses other code for a single row, and is not faster for two or three than for this
many.
"""
FEW_ROWS = 64
"""Up to this many rows, multiples of ``ROWS`` are computed."""
STEPS = 16
"""Above, numbers of rows that are used between a power of two and the next."""
PIECE = 1 << 14
"""Up to this many elements are computed by a single thread."""
VECTORS = 64
"""Elements in a whole number of any processor's vectors, in pairs, as torch computes them: twice 32 of 16 bits."""


ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Names of the variable that oneDNN reads once, before its first product."""
WITHOUT_TILES = "AVX512_CORE_BF16"


def avoid_tiles() -> None:
    """Keep oneDNN from computing with tiles, if the processor has them, oneDNN has not begun to, and the user did not set
    what it may use. Products in float32, from weights that are converted for each, would be the only invariant ones
    otherwise, and take several times as long for few rows.
    """
    has_tiles: Callable[[], bool] = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    if has_tiles() and not any(name in os.environ for name in ISA_VARIABLES):
        os.environ[ISA_VARIABLES[0]] = WITHOUT_TILES


def has_onednn() -> bool:
    """Whether this torch has oneDNN, which the float32 product needs."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: x ``[..., K]``, weight ``[N, K]`` → ``[..., N]``."""
    flat = x.reshape(-1, x.shape[-1])
    rows = flat.shape[0]
    # In float16 the library's own product takes ten times as long as the one in float32, but for a single row.
    if not has_onednn() or (x.dtype == torch.bfloat16 and is_row_invariant(x.dtype, torch.get_num_threads())):
        # A single row has other bits with large weights, and two rows take no longer.
        out = F.linear(F.pad(flat, (0, 0, 0, 1)) if rows == 1 else _pad(flat), weight)
    else:
        turned = to_column_major(weight.float())
        out = torch.ops.mkldnn._linear_pointwise(_pad(flat.float()), turned, None, "none", [], "")
    return out[:rows].to(x.dtype).view(*x.shape[:-1], len(weight))


def linear_by_head(x: Tensor, weight: Tensor) -> Tensor:
    """:func:`linear` of each head: x ``[T, H, K]``, weight ``[H, N, K]`` → ``[T, H, N]``."""
    return torch.stack([linear(x[:, head], one) for head, one in enumerate(weight)], 1)


def round_rows(rows: int) -> int:
    """How many rows are computed for so many.

    oneDNN makes code for each number of rows that it meets, which takes about 1 ms and 0.2 to 0.7 MB for each shape of
    weights, and keeps up to a thousand; a server meets every number up to its largest batch. So few numbers are used: at
    most three rows are added to a few, and at most a sixteenth to many.
    """
    step = ROWS if rows <= FEW_ROWS else (1 << (rows - 1).bit_length() - 1) // STEPS
    return max(ROWS, -(-rows // step) * step)


def _pad(x: Tensor) -> Tensor:
    """``[T, K]`` with as many rows as :func:`round_rows` says; those that are added are zero."""
    lacking = round_rows(len(x)) - len(x)
    return F.pad(x, (0, 0, 0, lacking)) if lacking else x


def to_column_major(weight: Tensor) -> Tensor:
    """``[N, K]`` in column-major order. With other orders, oneDNN's product depends on the number of rows on some
    processors.
    """
    return weight.t().contiguous().t()  # no copy where it is so already


def lay_out(weight: Tensor) -> Tensor:
    """Weights in the memory layout that :func:`linear` needs, if it does not use torch's own product."""
    own = weight.dtype == torch.bfloat16 and is_row_invariant(weight.dtype, torch.get_num_threads())
    return weight if own or not has_onednn() else to_column_major(weight)


@cache
def is_row_invariant(dtype: torch.dtype, threads: int) -> bool:
    """Whether torch's own product is batch invariant; checked with a few row counts.

    Args:
        threads: torch's number of threads; the result is only valid for this number.
    """
    generator = torch.Generator().manual_seed(threads)
    x, weight = (torch.randn(n, 512, generator=generator).to(dtype) for n in (128, 2048))
    with torch.inference_mode():
        wanted = F.linear(x, weight)
        counts = (1, 2, 3, 5, 8, 11, 13, 17, 21, 27, 31, 33, 48, 63, 65, 96, 127)
        return all(torch.equal(F.linear(x[:n], weight), wanted[:n]) for n in counts)


def apply_by_rows(function: Callable[..., Any], *inputs: Tensor) -> Tensor:
    """An elementwise operation on ``[T, C]`` each, computed so that no element is in a thread's last, incomplete vector.

    Rows are padded to whole vectors. torch divides the work equally, so a number of rows that is a multiple of the
    number of threads gives each thread whole rows. The remaining rows are computed in pieces that are too small to be
    divided.

    Args:
        function: called with a piece of each input, and with that of the result, which it writes, as ``out``.
    """
    rows, channels = inputs[0].shape
    if lacking := -channels % VECTORS:
        inputs = tuple(F.pad(x, (0, lacking)) for x in inputs)
    out = inputs[0].new_empty(rows, channels + lacking)
    threads = torch.get_num_threads()
    # torch's own threshold: below it, fewer threads share.
    whole = rows // threads * threads if rows // threads * channels >= GRAIN else 0
    if threads == 1 or rows * channels <= PIECE:
        whole = rows
    if whole:
        function(*(x[:whole] for x in inputs), out=out[:whole])
    height = max(1, PIECE // out.shape[1])
    for top in range(whole, rows, height):
        for left in range(0, out.shape[1], PIECE):
            piece = slice(top, top + height), slice(left, left + PIECE)
            function(*(x[piece] for x in inputs), out=out[piece])
    return out[:, :channels].contiguous()


def make_activation(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The batch-invariant form of an elementwise operation, ``[..., C]`` → ``[..., C]``."""

    def operation(x: Tensor) -> Tensor:
        return apply_by_rows(lambda x, out: out.copy_(activation(x)), x.reshape(-1, x.shape[-1])).view(x.shape)

    return operation


def make_gated(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The batch-invariant form of ``activation(gate) * up``, ``[..., 2 * C]`` → ``[..., C]``."""

    def operation(x: Tensor) -> Tensor:
        gate, up = x.reshape(-1, x.shape[-1]).chunk(2, -1)  # [T, C] each
        found = apply_by_rows(lambda gate, up, out: torch.mul(activation(gate), up, out=out), gate, up)
        return found.view(*x.shape[:-1], gate.shape[1])

    return operation


def softcap(x: Tensor, cap: float) -> Tensor:
    """``cap * tanh(x / cap)``, elementwise."""
    return make_activation(partial(ops.softcap, cap=cap))(x)


ACTIVATIONS = (ops.silu, ops.gelu, ops.gelu_tanh, ops.gelu_quick)
"""Those with exponentials. The others are exact for every element, wherever it is."""

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "linear": linear,
    "linear_by_head": linear_by_head,
    "lay_out": lay_out,
    "softcap": softcap,
    **{activation.__name__: make_activation(activation) for activation in ACTIVATIONS},
    **{f"{activation.__name__}_mul": make_gated(activation) for activation in ACTIVATIONS},
}

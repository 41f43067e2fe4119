"""Lookup tables, built once for each device.

Entries of several bytes are stored as one integer, so that a lookup copies a whole group of codes.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Entries of a table, concatenated: ``[B, ...]`` int32 → int8 ``[B, entries * codes of an entry]``."""
    return table.index_select(0, index.flatten()).view(torch.int8).view(index.shape[0], -1)


@cache
def bits(device: torch.device, unset: int, set: int) -> Tensor:
    """A byte → its eight bits, lowest first, each as one of two int8 values: int64 ``[256]``."""
    ones = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    return _pack(torch.where(ones == 1, set, unset), device)


@cache
def signs(device: torch.device) -> Tensor:
    """A byte → eight factors, -1 where its bit is set: int64 ``[256]``."""
    return bits(device, 1, -1)


@cache
def even_signs(device: torch.device) -> Tensor:
    """Seven bits → eight factors, the eighth such that the number of -1 is even: int64 ``[128]``."""
    index = torch.arange(128)
    parity = ((index[:, None] >> torch.arange(7)) & 1).sum(-1) & 1
    return signs(device)[(index | parity << 7).to(device)]


@cache
def grid(type: str, device: torch.device) -> Tensor:
    """The grid points of an i-quant's codes: int64 (eight coordinates) or int32 (four) ``[points]``."""
    return _pack(_points(type), device)


@cache
def shifted_grid(type: str, device: torch.device) -> Tensor:
    """The points of a 1-bit grid in eighths, moved up by an eighth, then all of them moved down: int64 ``[2 * points]``."""
    points = _points(type) * 8
    return _pack(torch.cat((points + 1, points - 1)), device)


@cache
def codebook(values: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Two bytes → the values of their low nibbles, and of their high nibbles: int16 ``[65536]`` each."""
    index = torch.arange(1 << 16)
    pairs = torch.stack((index & 255, index >> 8), -1)  # little-endian
    book = torch.tensor(values, dtype=torch.int8)
    return _pack(book[pairs & 15], device), _pack(book[pairs >> 4], device)


def _points(type: str) -> Tensor:
    from gguf import quants

    quant = getattr(quants, type.upper())
    quant.init_grid()
    return torch.from_numpy(quant.grid).reshape(quant.grid_shape)


def _pack(entries: Tensor, device: torch.device) -> Tensor:
    """Rows of 2, 4 or 8 small integers → one integer each."""
    dtype = {2: torch.int16, 4: torch.int32, 8: torch.int64}[entries.shape[-1]]
    return entries.to(torch.int8).contiguous().view(dtype).flatten().to(device)

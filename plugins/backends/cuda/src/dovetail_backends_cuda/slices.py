"""Divides the blocks that a step gathers into slices that fit into memory.

Letters: R requests of a slice, N gathered blocks, B blocks of a block table's row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dovetail.nn import KVIndex, Step


@dataclass(frozen=True)
class Slice:
    """Requests of one attention call. Their keys are gathered block by block, so a request's keys follow the others'
    and may end with slots that are not filled.

    Attributes:
        tokens: of the step.
        blocks: int64 ``[N]``: what to gather.
        query_start: int32 ``[R + 1]``: request ``r`` owns ``query_start[r] : query_start[r + 1]`` of these tokens.
        key_start: int32 ``[R + 1]``, of the gathered keys likewise.
        keys: int32 ``[R]``: how many of those are filled; the last one belongs to the request's last token.
        max_query: largest number of tokens of a request.
        max_keys: largest number of keys of a request. It decides the order of the kernel's sums.
        window: as in :class:`dovetail.nn.AttentionSpec`.
        first: int64 ``[R]``, position of each request's first gathered key, where a token sees its chunk alone.
    """

    tokens: slice
    blocks: Tensor
    query_start: Tensor
    key_start: Tensor
    keys: Tensor
    max_query: int
    max_keys: int
    window: int | None
    first: Tensor | None = None


def decode_slices(
    step: Step,
    index: KVIndex,
    block_size: int,
    window: int | None,
    limit: int,
    max_keys: int,
    chunk: int | None = None,
) -> list[Slice]:
    """Slices of a decode step: one token of each request, and as many blocks of each as ``step.max_seq_len`` tokens, the
    window or a chunk need.

    Args:
        limit: blocks of a slice, unless one request has more.
    """
    tables, lengths = index.block_tables, step.seq_lens
    width = min(-(-step.max_seq_len // block_size), tables.shape[1])
    keys, begins = lengths, None
    span = window if chunk is None else chunk
    if span is None:
        tables = tables[:, :width]
    else:
        # So many blocks hold a window or chunk wherever it begins in its first one.
        width = min(width, -(-(span - 1) // block_size) + 1)
        oldest = (lengths - span).clamp_min(0) if chunk is None else (lengths - 1) // chunk * chunk
        first = oldest // block_size  # [R]
        columns = first[:, None] + torch.arange(width, device=first.device)
        tables = tables.gather(1, columns.clamp_max(tables.shape[1] - 1))
        keys = lengths - first * block_size
        begins = None if chunk is None else first.long() * block_size
    tables = tables.long()
    share = max(1, limit // width)
    found = []
    for start in range(0, len(lengths), share):
        stop = min(start + share, len(lengths))
        counting = torch.arange(stop - start + 1, dtype=torch.int32, device=lengths.device)
        found.append(
            Slice(
                slice(start, stop),
                tables[start:stop].reshape(-1),
                counting,
                counting * (width * block_size),
                keys[start:stop].int(),
                1,
                max_keys,
                window,
                None if begins is None else begins[start:stop],
            )
        )
    return found


def mixed_slices(
    step: Step, index: KVIndex, block_size: int, window: int | None, limit: int, max_keys: int
) -> list[Slice]:
    """Slices of any mixture of prefill and decode, with each request's own number of blocks.

    Args:
        limit: blocks of a slice, unless one request has more.
    """
    assert step.lengths is not None
    query = np.asarray(step.lengths.query, np.int32)
    total = np.asarray(step.lengths.total, np.int32)
    oldest = total - query  # position of each request's first new token
    first = np.zeros_like(total) if window is None else np.maximum(0, oldest - window + 1) // block_size
    counts = -(-total // block_size) - first
    tokens = np.concatenate(([0], np.cumsum(query)))
    table = index.block_tables.reshape(-1)
    found = []
    for start, stop in _runs(counts.tolist(), limit):
        own = counts[start:stop]
        begins = np.concatenate(([0], np.cumsum(own)))
        columns = np.arange(begins[-1]) - np.repeat(begins[:-1] - first[start:stop], own)
        entries = np.repeat(np.arange(start, stop), own) * index.block_tables.shape[1] + columns
        parts = (
            tokens[start : stop + 1] - tokens[start],
            begins * block_size,
            (total - first * block_size)[start:stop],
        )
        sizes = [len(part) for part in parts]
        # One copy to the device for all.
        sent = _upload(np.concatenate((*parts, entries)).astype(np.int32), table.device)
        query_start, key_start, keys, wanted = sent.split([*sizes, len(entries)])
        found.append(
            Slice(
                slice(int(tokens[start]), int(tokens[stop])),
                table.index_select(0, wanted).long(),
                query_start,
                key_start,
                keys,
                step.max_query_len,
                max_keys,
                window,
            )
        )
    return found


def single_request_slices(
    step: Step, index: KVIndex, block_size: int, window: int | None, limit: int, chunk: int | None = None
) -> list[Slice]:
    """Slices of one request, each with as many of its tokens as the limit of scores allows.

    Args:
        limit: products of a query and a key in a slice, unless one token has more.
    """
    assert step.lengths is not None
    device = index.block_tables.device
    found, start = [], 0
    for request, (query, total) in enumerate(zip(step.lengths.query, step.lengths.total, strict=True)):
        size = max(1, limit // total)
        for begin in range(0, query, size):
            count = min(size, query - begin)
            end = total - query + begin + count  # keys that the piece's last token sees
            first = 0 if window is None else max(0, end - count - window + 1) // block_size
            if chunk is not None:
                first = (end - count) // chunk * chunk // block_size
            blocks = index.block_tables[request, first : -(-end // block_size)].long()
            found.append(
                Slice(
                    slice(start + begin, start + begin + count),
                    blocks,
                    torch.arange(0, count + 1, count, dtype=torch.int32, device=device),
                    torch.arange(0, 2, dtype=torch.int32, device=device) * (len(blocks) * block_size),
                    torch.full((1,), end - first * block_size, dtype=torch.int32, device=device),
                    count,
                    end,
                    window,
                    None if chunk is None else torch.full((1,), first * block_size, device=device),
                )
            )
        start += query
    return found


@dataclass(frozen=True)
class WholeSlice:
    """Tokens of one request that is computed whole, and sees all of itself.

    Attributes:
        tokens: of the step.
        request: the tokens of its request.
    """

    tokens: slice
    request: slice


def whole_slices(step: Step, limit: int) -> list[WholeSlice]:
    """Slices of requests that are computed whole.

    Args:
        limit: products of a query and a key in a slice, unless one token has more.
    """
    assert step.lengths is not None
    found, start = [], 0
    for length in step.lengths.query:
        size = max(1, limit // length)
        request = slice(start, start + length)
        found += [
            WholeSlice(slice(begin, min(begin + size, request.stop)), request)
            for begin in range(start, request.stop, size)
        ]
        start += length
    return found


def _runs(counts: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Runs of adjacent items whose counts together are within the limit. An item that exceeds it is alone."""
    start, held = 0, 0
    for place, count in enumerate(counts):
        if place > start and held + count > limit:
            yield start, place
            start, held = place, 0
        held += count
    yield start, len(counts)


def _upload(values: np.ndarray, device: torch.device) -> Tensor:
    sent = torch.from_numpy(values)
    return sent.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sent

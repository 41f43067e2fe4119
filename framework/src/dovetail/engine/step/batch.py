"""The persistent batch: one row a running request; rows stay, and each step writes only what changed.

On a device that runs captured graphs, the block tables live there as well, and what changed travels to them; elsewhere a step's tables are cut from the
host's.

Letters: S rows, R requests of a step, T tokens of a step, L logit rows, B entries of a block table, P requests of a padded step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.engine_request import Request
from dovetail.engine.kv.pool import NULL_BLOCK
from dovetail.engine.step.scheduler import Schedule
from dovetail.nn.platform import Platform
from dovetail.nn.step import KVIndex, Lengths, Step

MOST_CHANGES = 1024
"""Changes of block tables that are kept back for the next captured step."""
UNSEEN = -1
"""Stands for a token that was sampled but is still on the device alone."""


@dataclass
class Work:
    """What a step computes, on the host.

    Attributes:
        requests: R, in the order of the step.
        counts: int64 ``[R]``, new tokens of each.
        totals: int64 ``[R]``, tokens of each after the step.
        rows: int64 ``[R]``, of the batch.
        sampled: the requests that get a token, in order.
        drafts: for each of ``sampled``, the draft tokens that the step checks.
        sampled_rows: int64, of the batch, one for each of ``sampled``.
        gets_token: bool ``[R]``, whether a request is among ``sampled``.
        pooled: places among ``requests`` of those whose hidden states are pooled.
        streams, prefill: as in the schedule.
        is_decode: every request brings one token, which the device knows, and gets one.
    """

    requests: list[Request]
    counts: np.ndarray
    totals: np.ndarray
    rows: np.ndarray
    sampled: list[Request]
    drafts: list[list[int]]
    sampled_rows: np.ndarray
    gets_token: np.ndarray
    pooled: list[int]
    streams: int
    prefill: int
    is_decode: bool

    @property
    def max_seq_len(self) -> int:
        return int(self.totals.max(initial=1))


@dataclass
class Sampling:
    """Which tokens' logits a step samples from, on the device.

    Attributes:
        rows: int64 ``[L]``, of the batch.
        positions: int64 ``[L]``, the places that the sampled tokens will have.
    """

    rows: Tensor
    positions: Tensor


class Batch:
    """Rows of token ids and block tables.

    Args:
        max_seqs: S.
        max_len: tokens of the longest request.
        groups: cache groups.
        platform: where a step's inputs go.
    """

    def __init__(self, max_seqs: int, max_len: int, block_size: int, groups: int, platform: Platform) -> None:
        self.block_size = block_size
        self.platform = platform
        # numpy's zeros cost no memory until a row is used.
        width = -(-max_len // block_size)
        self.tokens = np.zeros((max_seqs, max_len + 1), np.int32)
        self.blocks = [np.zeros((max_seqs, width), np.int32) for _ in range(groups)]
        self.block_counts = np.zeros((groups, max_seqs), np.int32)
        self.passed = np.zeros((groups, max_seqs), np.int32)
        self.seen = np.zeros(max_seqs, np.int64)
        self.fed = np.zeros(max_seqs, bool)
        """Rows whose newest token was sampled on the device, where the next step finds it."""
        self.pooling = 0
        """Rows whose requests are for vectors."""
        self._free = list(range(max_seqs - 1, -1, -1))
        self.tables: list[Tensor] = []
        self._changes: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(groups)]
        if platform.graphs:
            # One row more, of null blocks, for what pads a captured step.
            shape = (max_seqs + 1, width)
            self.tables = [torch.zeros(shape, dtype=torch.int32, device=platform.device) for _ in range(groups)]

    def add(self, request: Request) -> None:
        row = request.row = self._free.pop()
        self.tokens[row, : len(request.tokens)] = request.tokens
        self.seen[row] = len(request.tokens)
        self.pooling += request.pooling is not None

    def remove(self, request: Request) -> None:
        row = request.row
        if row < 0:
            return
        for group, blocks in enumerate(self.blocks):
            # What the row's next owner does not use must point to the null block, never to somebody else's.
            self._write(group, row, 0, np.full(self.block_counts[group, row], NULL_BLOCK, np.int32))
            blocks[row, : self.block_counts[group, row]] = NULL_BLOCK
            self.block_counts[group, row] = self.passed[group, row] = 0
        self.fed[row] = False
        self.pooling -= request.pooling is not None
        self._free.append(row)
        request.row = -1

    def append(self, request: Request, token: int) -> None:
        """A sampled token that the host has seen."""
        request.tokens.append(token)
        if request.row >= 0:
            self.tokens[request.row, len(request.tokens) - 1] = token
            self.seen[request.row] = len(request.tokens)

    def _write(self, group: int, row: int, first: int, values: np.ndarray) -> None:
        if self.tables and len(values):
            self._changes[group].append((row * self.blocks[group].shape[1] + first, values))

    def _update(self, request: Request) -> None:
        """Bring a row's block tables to what its request holds."""
        row, held = request.row, request.kv
        assert held is not None
        for group, table in enumerate(held.tables):
            have = self.block_counts[group, row]
            if have < len(table):
                new = np.asarray(table[have:], np.int32)
                self.blocks[group][row, have : len(table)] = new
                self.block_counts[group, row] = len(table)
                self._write(group, row, int(have), new)
            gone, passed = self.passed[group, row], held.passed[group]
            if gone < passed:
                self.blocks[group][row, gone:passed] = NULL_BLOCK
                self._write(group, row, int(gone), np.full(passed - gone, NULL_BLOCK, np.int32))
                self.passed[group, row] = passed

    def begin(self, schedule: Schedule) -> Work:
        """Give rows to requests that are new to the batch, and say what the step computes."""
        requests = list(schedule.tokens)
        for request in requests:
            if request.row < 0:
                self.add(request)
            self._update(request)
        counts = np.fromiter(schedule.tokens.values(), np.int64, len(requests))
        computed = np.fromiter((r.computed for r in requests), np.int64, len(requests))
        rows = np.fromiter((r.row for r in requests), np.int64, len(requests))
        totals = computed + counts
        reached = np.fromiter((r.total for r in requests), np.int64, len(requests))
        gets_token = totals >= reached
        pooled: list[int] = []
        if self.pooling:
            pooled = [place for place, request in enumerate(requests) if request.pooling is not None]
            gets_token[pooled] = False
        sampled = [r for r, gets in zip(requests, gets_token.tolist(), strict=True) if gets]
        drafts = [r.draft[: r.computed + schedule.tokens[r] - r.total] for r in sampled]
        is_decode = len(sampled) == len(requests) and bool((counts == 1).all() and self.fed[rows].all())
        return Work(
            requests=requests,
            counts=counts,
            totals=totals,
            rows=rows,
            sampled=sampled,
            drafts=drafts,
            sampled_rows=rows[gets_token],
            gets_token=gets_token,
            pooled=pooled,
            streams=schedule.streams,
            prefill=schedule.prefill,
            is_decode=is_decode,
        )

    # -- a step whose inputs the host writes

    def step(self, work: Work, last_tokens: Tensor | None) -> tuple[Step, Sampling]:
        """Inputs of any step.

        Args:
            last_tokens: int64 ``[S + 1]`` on the device, each row's newest token, if some of them have not reached the host.
        """
        if any(len(changes) > MOST_CHANGES for changes in self._changes):
            self.flush()  # captured steps may never come: those that check guesses are not
        size = self.block_size
        put = self.platform.upload
        for request, draft in zip(work.sampled, work.drafts, strict=True):
            if draft:
                self.tokens[request.row, request.total : request.total + len(draft)] = draft
        counts, rows, totals = work.counts, work.rows, work.totals
        starts = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(counts, out=starts[1:])
        # Each token's place within its request's share of the step, then within the request.
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1] - (totals - counts), counts)  # [T]
        owners = np.repeat(rows, counts)  # [T]
        tokens = self.tokens[owners, positions].astype(np.int64)
        if last_tokens is not None:
            tokens[positions >= self.seen[owners]] = UNSEEN
        inputs = put(tokens)
        if last_tokens is not None:
            inputs = torch.where(inputs == UNSEEN, last_tokens[put(owners)], inputs)
        kv = []
        for blocks, held in zip(self.blocks, self.block_counts, strict=True):
            width = int(held[rows].max(initial=1))
            slots = blocks[owners, positions // size].astype(np.int64) * size + positions % size
            kv.append(KVIndex(put(blocks[rows, :width]), put(slots)))
        logit_rows, sampled_rows, places = self._logit_rows(work, starts)
        adapters = None
        if any(r.adapter for r in work.requests):
            each = np.fromiter((r.adapter for r in work.requests), np.int64, len(rows))
            adapters = put(np.repeat(each, counts))
        step = Step(
            tokens=inputs,
            positions=put(positions),
            query_start=put(starts),
            seq_lens=put(totals.astype(np.int32)),
            logit_rows=put(logit_rows),
            kv=tuple(kv),
            max_query_len=int(counts.max(initial=1)),
            max_seq_len=work.max_seq_len,
            lengths=Lengths(counts.tolist(), totals.tolist()),
            adapters=adapters,
        )
        return step, Sampling(put(sampled_rows), put(places))

    def _logit_rows(self, work: Work, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens of the step whose logits are sampled from (the last of each sampled request, and one before it for each draft), their rows of
        the batch, and the places that the sampled tokens will have.
        """
        gets = work.gets_token
        last, rows, totals = starts[1:][gets].astype(np.int64) - 1, work.rows[gets], work.totals[gets]
        if not any(work.drafts):
            return last, rows, totals
        each = np.fromiter((1 + len(d) for d in work.drafts), np.int64, len(work.drafts))
        back = np.repeat(np.cumsum(each), each) - np.arange(each.sum()) - 1  # 0 for a request's last row
        return np.repeat(last, each) - back, np.repeat(rows, each), np.repeat(totals, each) - back

    # -- a captured step, which finds everything but rows and lengths on the device

    def flush(self) -> None:
        """Write what changed since the last time to the block tables on the device."""
        for table, changes in zip(self.tables, self._changes, strict=True):
            if not changes:
                continue
            places = np.concatenate([np.arange(first, first + len(values)) for first, values in changes])
            values = np.concatenate([values for _, values in changes])
            # A place that was written twice keeps its last value: the device's writes have no order among themselves.
            places, newest = np.unique(places[::-1], return_index=True)
            values = values[::-1][newest]
            table.view(-1).index_copy_(0, self.platform.upload(places), self.platform.upload(values))
            changes.clear()

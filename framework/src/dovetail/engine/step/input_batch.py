"""The persistent batch, with one row for each running request. A request keeps its row until it ends, and a step writes
only what changed.

On a device with captured graphs, the block tables are on the device too, and changes are copied there. Elsewhere a
step's tables are slices of the host's.

Letters: S rows, R requests of a step, T tokens of a step, L logit rows, B entries of a block table, P requests of a
padded step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.engine_request import Request
from dovetail.engine.kv.pool import NULL_BLOCK
from dovetail.engine.step.scheduler import SchedulerOutput
from dovetail.nn.platform import Platform
from dovetail.nn.step import HostLengths, KVIndex, Step

MAX_PENDING_CHANGES = 1024
"""Maximum number of block-table changes that are buffered for the next captured step."""
IN_FLIGHT_TOKEN = -1
"""Placeholder for a token that is sampled but not yet copied to the host."""


@dataclass
class StepWork:
    """The work of a step, on the host.

    Attributes:
        requests: R, in the order of the step.
        num_scheduled_tokens: int64 ``[R]``, new tokens of each.
        seq_lens: int64 ``[R]``, tokens of each after the step.
        rows: int64 ``[R]``, of the batch.
        sampled_requests: the requests that get a token, in order.
        drafts: for each of ``sampled_requests``, the draft tokens that the step verifies.
        sampled_rows: int64, of the batch, one for each of ``sampled_requests``.
        is_sampled: bool ``[R]``, whether a request is among ``sampled_requests``.
        pooled_indices: indices in ``requests`` of those whose hidden states are pooled.
        num_decodes, num_prefill_tokens: as in the schedule.
        is_decode: True if each request has exactly one new token, this token is on the device, and one token is sampled
            for it.
    """

    requests: list[Request]
    num_scheduled_tokens: np.ndarray
    seq_lens: np.ndarray
    rows: np.ndarray
    sampled_requests: list[Request]
    drafts: list[list[int]]
    sampled_rows: np.ndarray
    is_sampled: np.ndarray
    pooled_indices: list[int]
    num_decodes: int
    num_prefill_tokens: int
    is_decode: bool

    @property
    def max_seq_len(self) -> int:
        return int(self.seq_lens.max(initial=1))


@dataclass
class SamplingIndices:
    """The tokens whose logits a step samples from, on the device.

    Attributes:
        rows: int64 ``[L]``, of the batch.
        positions: int64 ``[L]``, the positions of the sampled tokens.
    """

    rows: Tensor
    positions: Tensor


class InputBatch:
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
        self.num_blocks = np.zeros((groups, max_seqs), np.int32)
        self.num_out_of_window = np.zeros((groups, max_seqs), np.int32)
        self.num_host_tokens = np.zeros(max_seqs, np.int64)
        self.has_device_token = np.zeros(max_seqs, bool)
        """Rows whose newest token is on the device, where the next step reads it."""
        self.num_pooling_requests = 0
        """Rows of pooling requests."""
        self.num_image_requests = 0
        """Rows of requests with images."""
        self._free = list(range(max_seqs - 1, -1, -1))
        self.tables: list[Tensor] = []
        self._changes: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(groups)]
        if platform.supports_graphs:
            # One row more, of null blocks, for what pads a captured step.
            shape = (max_seqs + 1, width)
            self.tables = [torch.zeros(shape, dtype=torch.int32, device=platform.device) for _ in range(groups)]

    def add(self, request: Request) -> None:
        row = request.row = self._free.pop()
        self.tokens[row, : len(request.tokens)] = request.tokens
        self.num_host_tokens[row] = len(request.tokens)
        self.num_pooling_requests += request.pooling_params is not None
        self.num_image_requests += bool(request.images)

    def remove(self, request: Request) -> None:
        row = request.row
        if row < 0:
            return
        for group, blocks in enumerate(self.blocks):
            # Entries that the row's next request does not use must point to the null block, never to another request's
            # blocks.
            self._record_change(group, row, 0, np.full(self.num_blocks[group, row], NULL_BLOCK, np.int32))
            blocks[row, : self.num_blocks[group, row]] = NULL_BLOCK
            self.num_blocks[group, row] = self.num_out_of_window[group, row] = 0
        self.has_device_token[row] = False
        self.num_pooling_requests -= request.pooling_params is not None
        self.num_image_requests -= bool(request.images)
        self._free.append(row)
        request.row = -1

    def append(self, request: Request, token: int) -> None:
        """Add a sampled token that has reached the host."""
        request.tokens.append(token)
        if request.row >= 0:
            self.tokens[request.row, len(request.tokens) - 1] = token
            self.num_host_tokens[request.row] = len(request.tokens)

    def _record_change(self, group: int, row: int, first: int, values: np.ndarray) -> None:
        if self.tables and len(values):
            self._changes[group].append((row * self.blocks[group].shape[1] + first, values))

    def _update_block_tables(self, request: Request) -> None:
        """Update a row's block tables to the request's blocks."""
        row, held = request.row, request.kv_blocks
        assert held is not None
        for group, table in enumerate(held.tables):
            have = self.num_blocks[group, row]
            if have < len(table):
                new = np.asarray(table[have:], np.int32)
                self.blocks[group][row, have : len(table)] = new
                self.num_blocks[group, row] = len(table)
                self._record_change(group, row, int(have), new)
            gone, passed = self.num_out_of_window[group, row], held.num_out_of_window[group]
            if gone < passed:
                self.blocks[group][row, gone:passed] = NULL_BLOCK
                self._record_change(group, row, int(gone), np.full(passed - gone, NULL_BLOCK, np.int32))
                self.num_out_of_window[group, row] = passed

    def prepare_step(self, schedule: SchedulerOutput) -> StepWork:
        """Assign rows to requests that are new in the batch, and return the step's work."""
        requests = list(schedule.tokens)
        for request in requests:
            if request.row < 0:
                self.add(request)
            self._update_block_tables(request)
        counts = np.fromiter(schedule.tokens.values(), np.int64, len(requests))
        computed = np.fromiter((r.num_computed_tokens for r in requests), np.int64, len(requests))
        rows = np.fromiter((r.row for r in requests), np.int64, len(requests))
        totals = computed + counts
        reached = np.fromiter((r.num_tokens for r in requests), np.int64, len(requests))
        gets_token = totals >= reached
        pooled: list[int] = []
        if self.num_pooling_requests:
            pooled = [place for place, request in enumerate(requests) if request.pooling_params is not None]
            gets_token[pooled] = False
        sampled = [r for r, gets in zip(requests, gets_token.tolist(), strict=True) if gets]
        drafts = [r.draft_token_ids[: r.num_computed_tokens + schedule.tokens[r] - r.num_tokens] for r in sampled]
        is_decode = len(sampled) == len(requests) and bool((counts == 1).all() and self.has_device_token[rows].all())
        return StepWork(
            requests=requests,
            num_scheduled_tokens=counts,
            seq_lens=totals,
            rows=rows,
            sampled_requests=sampled,
            drafts=drafts,
            sampled_rows=rows[gets_token],
            is_sampled=gets_token,
            pooled_indices=pooled,
            num_decodes=schedule.num_decodes,
            num_prefill_tokens=schedule.num_prefill_tokens,
            is_decode=is_decode,
        )

    # -- a step whose inputs the host writes

    def build_step(self, work: StepWork, last_tokens: Tensor | None) -> tuple[Step, SamplingIndices]:
        """Build the inputs of any step.

        Args:
            last_tokens: int64 ``[S + 1]`` on the device, each row's newest token, if some of them have not reached the
                host.
        """
        if any(len(changes) > MAX_PENDING_CHANGES for changes in self._changes):
            self.flush()  # steps that verify drafts are never captured, so flush here too
        size = self.block_size
        put = self.platform.upload
        for request, draft in zip(work.sampled_requests, work.drafts, strict=True):
            if draft:
                self.tokens[request.row, request.num_tokens : request.num_tokens + len(draft)] = draft
        counts, rows, totals = work.num_scheduled_tokens, work.rows, work.seq_lens
        starts = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(counts, out=starts[1:])
        # Each token's place within its request's share of the step, then within the request.
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1] - (totals - counts), counts)  # [T]
        owners = np.repeat(rows, counts)  # [T]
        tokens = self.tokens[owners, positions].astype(np.int64)
        if last_tokens is not None:
            tokens[positions >= self.num_host_tokens[owners]] = IN_FLIGHT_TOKEN
        inputs = put(tokens)
        if last_tokens is not None:
            inputs = torch.where(inputs == IN_FLIGHT_TOKEN, last_tokens[put(owners)], inputs)
        kv = []
        for blocks, held in zip(self.blocks, self.num_blocks, strict=True):
            width = int(held[rows].max(initial=1))
            slots = blocks[owners, positions // size].astype(np.int64) * size + positions % size
            kv.append(KVIndex(put(blocks[rows, :width]), put(slots)))
        logits_indices, sampled_rows, places = self._find_logit_rows(work, starts)
        adapters = None
        if any(r.lora_slot for r in work.requests):
            each = np.fromiter((r.lora_slot for r in work.requests), np.int64, len(rows))
            adapters = put(np.repeat(each, counts))
        axes = None
        if self.num_image_requests and any(r.rope_positions is not None for r in work.requests):
            axes = put(_rope_positions(work, positions, starts))
        step = Step(
            tokens=inputs,
            positions=put(positions),
            query_start=put(starts),
            seq_lens=put(totals.astype(np.int32)),
            logits_indices=put(logits_indices),
            kv=tuple(kv),
            max_query_len=int(counts.max(initial=1)),
            max_seq_len=work.max_seq_len,
            lengths=HostLengths(counts.tolist(), totals.tolist()),
            adapters=adapters,
            rope_positions=axes,
        )
        return step, SamplingIndices(put(sampled_rows), put(places))

    def _find_logit_rows(self, work: StepWork, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens whose logits are sampled from: the last one of each sampled request, and one before it for each
        draft token. Also returns their rows of the batch, and the positions of the sampled tokens.
        """
        gets = work.is_sampled
        last, rows, totals = starts[1:][gets].astype(np.int64) - 1, work.rows[gets], work.seq_lens[gets]
        if not any(work.drafts):
            return last, rows, totals
        each = np.fromiter((1 + len(d) for d in work.drafts), np.int64, len(work.drafts))
        back = np.repeat(np.cumsum(each), each) - np.arange(each.sum()) - 1  # 0 for a request's last row
        return np.repeat(last, each) - back, np.repeat(rows, each), np.repeat(totals, each) - back

    # -- a captured step, which finds everything but rows and lengths on the device

    def flush(self) -> None:
        """Copy the changes of block tables since the last call to the device."""
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


def _rope_positions(work: StepWork, positions: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Rotary positions of a step's tokens, int64 ``[3, T]``.

    Args:
        positions: int64 ``[T]``, within each request.
        starts: ``[R + 1]``, of each request's tokens in the step.
    """
    found = np.stack([positions] * 3)
    for request, start, end in zip(work.requests, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        if request.rope_positions is None:
            continue
        first, of_prompt = int(positions[start]), request.rope_positions.shape[1]
        seen = max(min(of_prompt - first, end - start), 0)
        found[:, start : start + seen] = request.rope_positions[:, first : first + seen]
        found[:, start + seen : end] += request.rope_offset
    return found

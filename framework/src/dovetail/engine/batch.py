"""The persistent batch: one row a running request; rows stay, and each step writes only what changed.

Letters: S rows, R requests of a step, T tokens of a step, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dovetail.engine.kv_cache import NULL_BLOCK
from dovetail.engine.request import Request
from dovetail.engine.scheduler import Schedule
from dovetail.nn.step import Step


@dataclass
class Prepared:
    """A step's inputs on the device, and which requests it samples for, in the order of the step's logits."""

    step: Step
    sampled: list[Request]


class Batch:
    """Rows of token ids and block tables.

    Args:
        max_seqs: S.
        max_len: tokens of the longest request.
    """

    def __init__(self, max_seqs: int, max_len: int, block_size: int, device: torch.device) -> None:
        self.block_size = block_size
        self.device = device
        # numpy's zeros cost no memory until a row is used.
        self.tokens = np.zeros((max_seqs, max_len), np.int32)
        self.blocks = np.zeros((max_seqs, -(-max_len // block_size)), np.int32)
        self.block_counts = np.zeros(max_seqs, np.int32)
        self._free = list(range(max_seqs - 1, -1, -1))

    def add(self, request: Request) -> None:
        request.row = self._free.pop()
        self.tokens[request.row, : len(request.tokens)] = request.tokens

    def remove(self, request: Request) -> None:
        if request.row >= 0:
            # What the row's next owner does not use must point to the null block, never to somebody else's.
            self.blocks[request.row, : self.block_counts[request.row]] = NULL_BLOCK
            self.block_counts[request.row] = 0
            self._free.append(request.row)
            request.row = -1

    def append(self, request: Request, token: int) -> None:
        """A sampled token, as the next step's input."""
        request.tokens.append(token)
        self.tokens[request.row, len(request.tokens) - 1] = token

    def prepare(self, schedule: Schedule) -> Prepared:
        """Inputs of one step. Requests that are new to the batch get a row; the preempted ones lose theirs."""
        for request in schedule.preempted:
            self.remove(request)
        requests = list(schedule.tokens)
        for request in requests:
            if request.row < 0:
                self.add(request)
            have = self.block_counts[request.row]
            if have < len(request.blocks):
                self.blocks[request.row, have : len(request.blocks)] = request.blocks[have:]
                self.block_counts[request.row] = len(request.blocks)
        rows = np.fromiter((r.row for r in requests), np.int64, len(requests))
        counts = np.fromiter(schedule.tokens.values(), np.int64, len(requests))
        computed = np.fromiter((r.computed for r in requests), np.int64, len(requests))
        starts = np.zeros(len(requests) + 1, np.int32)
        np.cumsum(counts, out=starts[1:])
        # Each token's place within its request's share of the step, then within the request.
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1] - computed, counts)  # [T]
        owners = np.repeat(rows, counts)  # [T]
        blocks = self.blocks[owners, positions // self.block_size]
        ends = computed + counts
        complete = ends == np.fromiter((len(r.tokens) for r in requests), np.int64, len(requests))
        width = int(self.block_counts[rows].max(initial=1))

        def put(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(self.device)

        step = Step(
            tokens=put(self.tokens[owners, positions].astype(np.int64)),
            positions=put(positions),
            query_start=put(starts),
            seq_lens=put(ends.astype(np.int32)),
            block_tables=put(self.blocks[rows, :width]),
            slots=put(blocks.astype(np.int64) * self.block_size + positions % self.block_size),
            logit_rows=put(starts[1:][complete].astype(np.int64) - 1),
        )
        return Prepared(step, [r for r, done in zip(requests, complete, strict=True) if done])

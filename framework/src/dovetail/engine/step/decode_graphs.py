"""Captured graphs for decode steps: one for each padded batch size, including sampling.

Everything that such a step reads stays at a fixed address on the device: block tables, sampling parameters, each row's
newest token. The host only writes which rows take part and how long they are.

Letters: P requests of a padded step, S rows of the batch, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.sampling.metadata import SamplingMetadata
from dovetail.engine.sampling.sampler import Sampled, sample
from dovetail.engine.sampling.tables import SamplingTables
from dovetail.engine.step.input_batch import InputBatch, SamplingIndices, StepWork
from dovetail.nn.ops import Ops
from dovetail.nn.platform import Platform
from dovetail.nn.step import KVIndex, Step

Forward = Callable[[Step], Tensor]

MAX_PADDING_RATIO = 4
"""Padding may multiply the tokens read by at most this factor."""
CHEAP_TOKENS = 1 << 15
"""Up to this many tokens, padding always costs less than launching a step kernel by kernel."""


def build_capture_sizes(max_size: int) -> list[int]:
    """Batch sizes to capture: close enough together that padding costs little, and few enough that capturing them is
    fast.
    """
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32), *range(256, max_size + 64, 64)]
    return [*(s for s in sizes if s < max_size), max_size]


@dataclass
class CapturedStep:
    """A captured step for one key. Call :attr:`run`, then read the outputs; the next run overwrites them."""

    run: Callable[[], None]
    logits: Tensor | None = None
    sampled: Sampled | None = None


class DecodeGraphRunner:
    """Runs decode steps on padded batches.

    Args:
        forward: from a step to logits ``[P, V]``.
        seq_len_buckets: of the sequence length, from :meth:`dovetail.nn.AttentionBackend.capture_lengths`.
        ops: the platform's operations.
        capture: record graphs. Otherwise the same work is launched each time, with the same result bit for bit.
    """

    def __init__(
        self,
        platform: Platform,
        forward: Forward,
        batch: InputBatch,
        sampling: SamplingTables,
        last_tokens: Tensor,
        seq_len_buckets: tuple[int, ...],
        *,
        ops: Ops,
        capture: bool,
    ) -> None:
        self.platform = platform
        self.forward = forward
        self.decode_inputs = ops.decode_inputs
        self.batch = batch
        self.sampling = sampling
        self.last_tokens = last_tokens
        self.seq_len_buckets = seq_len_buckets
        self.capture = capture
        self.padding_row = batch.tokens.shape[0]  # the row that pads
        self.sizes = build_capture_sizes(self.padding_row)
        self.inputs = torch.zeros(4, self.padding_row, dtype=torch.int64, device=platform.device)
        self.arange = torch.arange(self.padding_row + 1, dtype=torch.int32, device=platform.device)
        self.lines = self.arange.long()
        self._captured: dict[tuple[int, int, bool, bool, SamplingMetadata | None], CapturedStep] = {}

    def run(
        self, work: StepWork, metadata: SamplingMetadata | None
    ) -> tuple[Sampled | None, Tensor | None, SamplingIndices]:
        """Run a decode step, padded to P requests.

        Args:
            metadata: for sampling inside the step; None to leave sampling to the caller.

        Returns:
            The sampled tokens, or the logits ``[P, V]`` to sample from; and their rows and positions.
        """
        count = len(work.rows)
        size = self.sizes[bisect_left(self.sizes, count)]
        bound = self.seq_len_buckets[bisect_left(self.seq_len_buckets, work.max_seq_len)]
        inputs = np.zeros((4, size), np.int64)
        inputs[0], inputs[1] = self.padding_row, 1
        inputs[0, :count], inputs[1, :count] = work.rows, work.seq_lens
        adapted = False
        if any(r.lora_slot for r in work.requests):
            adapted = True
            inputs[2, :count] = [r.lora_slot for r in work.requests]
        shifted = False
        if self.batch.num_image_requests and any(r.rope_offset for r in work.requests):
            shifted = True
            inputs[3, :count] = [r.rope_offset for r in work.requests]
        self.batch.flush()
        self.inputs[:, :size].copy_(self.platform.upload(inputs))
        key = (size, bound, adapted, shifted, metadata)
        if key not in self._captured:
            self._captured[key] = self._capture_step(*key)
        captured = self._captured[key]
        captured.run()
        return captured.sampled, captured.logits, SamplingIndices(self.inputs[0, :size], self.inputs[1, :size])

    def is_worth_it(self, work: StepWork) -> bool:
        """Whether it is worth padding every request to the length bucket of the longest. With one long request, all
        short ones would read as much as it does: 31 ms instead of 8 for one of 8,000 tokens beside 63 of 300, with a
        model of 8 billion parameters on an H200. A backend that asks for one bound alone does not pad.
        """
        if len(self.seq_len_buckets) == 1:
            return True
        padded = len(work.rows) * self.seq_len_buckets[bisect_left(self.seq_len_buckets, work.max_seq_len)]
        return padded <= max(CHEAP_TOKENS, MAX_PADDING_RATIO * int(work.seq_lens.sum()))

    def forget(self) -> None:
        """Delete all captured graphs. Call this before tensors move."""
        self._captured.clear()

    def _capture_step(
        self, size: int, bound: int, adapted: bool, shifted: bool, metadata: SamplingMetadata | None
    ) -> CapturedStep:
        made = CapturedStep(lambda: None)

        def work() -> None:
            rows, totals = self.inputs[0, :size], self.inputs[1, :size]
            made.logits = self.forward(self._step(size, bound, adapted, shifted))
            if metadata is not None:
                made.sampled = sample(made.logits, rows, totals, self.sampling, metadata, None)
                made.logits = None
                self.last_tokens.index_copy_(0, rows, made.sampled.inputs)

        if not self.capture:
            made.run = work
            return made
        # Recording runs the step, which must not be one of the stream's.
        newest = self.last_tokens.clone()
        made.run = self.platform.capture(work)
        self.last_tokens.copy_(newest)
        return made

    def _step(self, size: int, bound: int, adapted: bool, shifted: bool) -> Step:
        rows, totals = self.inputs[0, :size], self.inputs[1, :size]
        block = self.batch.block_size
        kv = []
        for table in self.batch.tables:
            blocks = table[:, : -(-bound // block)]
            tokens, positions, lengths, tables, slots = self.decode_inputs(
                rows, totals, self.last_tokens, blocks, block
            )
            kv.append(KVIndex(tables, slots))
        return Step(
            tokens=tokens,
            positions=positions,
            query_start=self.arange[: size + 1],
            seq_lens=lengths,
            logits_indices=self.lines[:size],
            kv=tuple(kv),
            max_query_len=1,
            max_seq_len=bound,
            adapters=self.inputs[2, :size] if adapted else None,
            rope_positions=(positions + self.inputs[3, :size]).expand(3, -1) if shifted else None,
        )

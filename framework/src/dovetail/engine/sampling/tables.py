"""Sampling parameters of the batch's rows, on the device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.engine_request import Request
from dovetail.engine.request.checks import LogprobsMode
from dovetail.engine.sampling.bias import Biases
from dovetail.engine.sampling.draw import WEIGHT_BITS
from dovetail.engine.sampling.greedy import likeliest
from dovetail.engine.sampling.penalties import TokenCounts
from dovetail.engine.sampling.random_bits import BITS
from dovetail.engine.sampling.slots import Upload

# Columns of the two tables.
TEMPERATURE, REPETITION, PRESENCE, FREQUENCY = range(4)
SEED, TOP_K, TOP_P, MIN_P, COUNTS, BIAS = range(6)

GREEDY_FLOATS = (0.0, 1.0, 0.0, 0.0)
GREEDY_NUMBERS = (0, 2**31 - 1, 1 << BITS, 0, 0, 0)


class SamplingTables:
    """Sampling parameters of the batch's rows. They stay on the device from step to step.

    Row ``rows`` is a scratch row for the padding of captured graphs; it is greedy. So is every row that is not set.

    Args:
        rows: of the batch.
        vocab_size: of the logits.
        device: where the tables are.
        upload: copies an array to the device, see :meth:`~dovetail.nn.Platform.upload`.
        sorts: the device sorts a vocabulary faster than it makes histograms of it, as GPUs do. Tokens are the same either way.
        logprobs_mode: what sampled tokens show as their logprobs.
        find_likeliest: the device's way to do what :func:`dovetail.nn.ops.likeliest` does.

    Attributes:
        floats: float32 ``[rows + 1, 4]``: temperature (0 for greedy) and the penalties.
        numbers: int64 ``[rows + 1, 6]``: seed, top-k, top-p in units of ``2**-31``, min-p in units of ``2**-40``, slots
            in ``counts`` and ``biases``. These two tensors are never replaced, so that captured graphs see what is
            flushed.
        counts, biases: of the rows that have penalties, and logit biases or allowed tokens.
    """

    def __init__(
        self,
        rows: int,
        vocab_size: int,
        device: torch.device,
        upload: Upload,
        *,
        sorts: bool = False,
        logprobs_mode: LogprobsMode = "raw_logprobs",
        find_likeliest: Callable[[Tensor], tuple[Tensor, Tensor]] = likeliest,
    ) -> None:
        self.upload = upload
        self.logprobs_mode = logprobs_mode
        self.sorts = sorts
        self.find_likeliest = find_likeliest
        self._floats = np.tile(np.array(GREEDY_FLOATS, np.float32), (rows + 1, 1))
        self._numbers = np.tile(np.array(GREEDY_NUMBERS, np.int64), (rows + 1, 1))
        self.floats: Tensor = upload(self._floats.copy())
        self.numbers: Tensor = upload(self._numbers.copy())
        self.counts = TokenCounts(vocab_size, device, upload)
        self.biases = Biases(vocab_size, device, upload)
        self._changed: set[int] = set()
        self._slots: dict[int, list[tuple[TokenCounts | Biases, int]]] = {}

    def set(self, row: int, request: Request) -> None:
        """Set a row to a request's parameters; written to the device at :meth:`flush`. All of its tokens must have
        reached the host.

        When a step samples from the row, ``request.num_tokens`` must be the position of the first sampled token.
        """
        self.clear(row)
        params = request.params
        counts = bias = 0
        slots: list[tuple[TokenCounts | Biases, int]] = []
        if params.has_penalties:
            counts = self.counts.allocate()
            self.counts.set(counts, request)
            slots.append((self.counts, counts))
        if params.logit_bias or params.allowed_token_ids is not None:
            bias = self.biases.share(params.logit_bias, params.allowed_token_ids)
            slots.append((self.biases, bias))
        if slots:
            self._slots[row] = slots
        self._floats[row], self._numbers[row] = _row_values(request, counts, bias)

    @staticmethod
    def check(request: Request) -> None:
        """Check that a row can hold a request's parameters, before a step of many requests needs it to.

        Raises:
            OverflowError, ValueError, TypeError: a parameter is beyond the table's numbers.
        """
        floats, numbers = _row_values(request, 0, 0)
        np.array(floats, np.float32), np.array(numbers, np.int64)

    def clear(self, row: int) -> None:
        """Clear the row of a request that has ended; written to the device at :meth:`flush`."""
        for table, slot in self._slots.pop(row, ()):
            table.free(slot)
        self._floats[row], self._numbers[row] = GREEDY_FLOATS, GREEDY_NUMBERS
        self._changed.add(row)

    def flush(self) -> None:
        """Copy changes since the last call to the device. Does not wait, and does nothing without changes."""
        if not self._changed:
            return
        rows = np.fromiter(self._changed, np.int64)
        self._changed.clear()
        index = self.upload(rows)
        self.floats.index_copy_(0, index, self.upload(self._floats[rows]))
        self.numbers.index_copy_(0, index, self.upload(self._numbers[rows]))
        self.counts.flush()
        self.biases.flush()


def _row_values(request: Request, counts: int, bias: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """A request's row in the two tables.

    Args:
        counts, bias: its slots.
    """
    params = request.params
    floats = (
        0.0 if params.greedy else params.temperature,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
    )
    numbers = (
        request.seed,
        params.top_k if params.top_k > 0 else GREEDY_NUMBERS[TOP_K],
        round(params.top_p * (1 << BITS)),
        round(params.min_p * (1 << WEIGHT_BITS)),
        counts,
        bias,
    )
    return floats, numbers

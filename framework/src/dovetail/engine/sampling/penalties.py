"""Which tokens the requests with penalties have had, on the device.

Letters: L lines, V vocabulary, P slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.sampling.slots import SlotTable, Upload


class TokenCounts(SlotTable):
    """For each slot how often the output holds each token (float32 ``[P, V]``, whole numbers), and whether the prompt does (bool ``[P, V]``).

    Counts are floats, as the scores that they change; sums of whole numbers stay exact.
    """

    def __init__(self, vocab_size: int, device: torch.device, upload: Upload) -> None:
        super().__init__()
        self.vocab_size, self.device, self.upload = vocab_size, device, upload
        self.counts = torch.zeros(0, vocab_size, device=device)
        self.prompts = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self._new: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def set(self, slot: int, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Begin a slot anew with these tokens, at the next :meth:`flush`."""
        prompt_ids, output_ids = np.unique(np.array(prompt, np.int64)), np.array(output, np.int64)
        # A tokenizer may know ids that the model's head has no logit for.
        self._new[slot] = tuple(ids[ids < self.vocab_size] + slot * self.vocab_size for ids in (prompt_ids, output_ids))  # type: ignore[assignment]

    def flush(self) -> None:
        self.counts, self.prompts = self.grown(self.counts), self.grown(self.prompts)
        if not self._new:
            return
        slots = self.upload(np.fromiter(self._new, np.int64))
        self.counts.index_fill_(0, slots, 0)
        self.prompts.index_fill_(0, slots, False)
        prompts, outputs = (self.upload(np.concatenate(ids)) for ids in zip(*self._new.values(), strict=True))
        self._new.clear()
        self.prompts.view(-1).index_fill_(0, prompts, True)
        self.counts.view(-1).scatter_add_(0, outputs, torch.ones_like(outputs, dtype=torch.float32))

    def count(self, slots: Tensor, tokens: Tensor, times: Tensor) -> None:
        """Add tokens to outputs.

        Args:
            slots, tokens: int64 ``[L]``; pairs may repeat.
            times: float32 ``[L]``; 0 for tokens that do not count.
        """
        self.counts.view(-1).scatter_add_(0, slots * self.vocab_size + tokens, times)

    def penalise(
        self,
        scores: Tensor,
        slots: Tensor,
        repetition: Tensor,
        presence: Tensor,
        frequency: Tensor,
        drafted: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Scores after the repetition penalty on prompt and output (Keskar et al., 2019), and presence and frequency penalties on the output.

        Args:
            scores: float32 ``[L, V]``.
            slots: int64 ``[L]``.
            repetition, presence, frequency: float32 ``[L]``; 1, 0 and 0 change nothing.
            drafted: lines and tokens, int64 ``[N]`` each, to count as output beside the slot's own.
        """
        counts = self.counts.index_select(0, slots)
        if drafted is not None:
            counts.index_put_(drafted, torch.ones_like(drafted[0], dtype=torch.float32), accumulate=True)
        seen = self.prompts.index_select(0, slots).logical_or_(counts > 0)
        factor = repetition[:, None]
        repeated = torch.where(scores > 0, scores / factor, scores * factor)
        scores = torch.where(seen, repeated, scores).sub_(frequency[:, None] * counts)
        return scores.sub_(counts.clamp_(max=1).mul_(presence[:, None]))

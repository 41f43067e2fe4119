"""Logit biases and lists of allowed tokens, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dovetail.engine.sampling.slots import SlotTable, Upload


class Biases(SlotTable):
    """For each slot the number to add to each logit: float32 ``[P, V]``, -inf for tokens that are not allowed."""

    def __init__(self, vocab_size: int, device: torch.device, upload: Upload) -> None:
        super().__init__()
        self.upload = upload
        self.values = torch.zeros(0, vocab_size, device=device)
        self._new: dict[int, np.ndarray] = {}

    def set(self, slot: int, bias: Mapping[int, float] | None, allowed: Sequence[int] | None) -> None:
        """Set a slot; it is written to the device at the next :meth:`flush`."""
        line = np.full(self.values.shape[1], 0 if allowed is None else -np.inf, np.float32)
        if allowed is not None:
            line[list(allowed)] = 0
        if bias:
            line[list(bias)] += np.fromiter(bias.values(), np.float32)
        self._new[slot] = line

    def flush(self) -> None:
        self.values = self.grow(self.values)
        if not self._new:
            return
        slots = self.upload(np.fromiter(self._new, np.int64))
        self.values.index_copy_(0, slots, self.upload(np.stack(list(self._new.values()))))
        self._new.clear()

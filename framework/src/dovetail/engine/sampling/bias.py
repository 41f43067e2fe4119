"""Logit biases and lists of allowed tokens, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dovetail.engine.sampling.slots import SlotTable, Upload


@dataclass(slots=True)
class _Shared:
    """A slot, the values that it was made of, whose ids stay theirs so long, and the number of rows that use it."""

    slot: int
    values: tuple[object, object]
    users: int = 0


class Biases(SlotTable):
    """For each slot the number to add to each logit: float32 ``[P, V]``, -inf for tokens that are not allowed."""

    def __init__(self, vocab_size: int, device: torch.device, upload: Upload) -> None:
        super().__init__()
        self.upload = upload
        self.values = torch.zeros(0, vocab_size, device=device)
        self._new: dict[int, np.ndarray] = {}
        self._shared: dict[tuple[int, int], _Shared] = {}
        self._keys: dict[int, tuple[int, int]] = {}

    def share(self, bias: Mapping[int, float] | None, allowed: Sequence[int] | None) -> int:
        """A slot with these values, written to the device at the next :meth:`flush`. Rows with the same two objects, as
        the completions of one request have, share one slot; :meth:`free` it once for each.
        """
        key = id(bias), id(allowed)
        shared = self._shared.get(key)
        if shared is None:
            slot = self.allocate()
            shared = self._shared[key] = _Shared(slot, (bias, allowed))
            self._keys[slot] = key
            self._set(slot, bias, allowed)
        shared.users += 1
        return shared.slot

    def free(self, slot: int) -> None:
        key = self._keys[slot]
        self._shared[key].users -= 1
        if not self._shared[key].users:
            del self._shared[key], self._keys[slot]
            super().free(slot)

    def _set(self, slot: int, bias: Mapping[int, float] | None, allowed: Sequence[int] | None) -> None:
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

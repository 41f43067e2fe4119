"""Places in device tables for the few rows that need one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Upload = Callable[[np.ndarray], Tensor]


class SlotTable:
    """Hands out slots of tables that are allocated when the first is taken, and doubled when there are too few."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._size = 0

    def allocate(self) -> int:
        """A slot that is free; its content is whatever was left in it."""
        if not self._free:
            size = max(4, 2 * self._size)
            self._free = list(range(size - 1, self._size - 1, -1))
            self._size = size
        return self._free.pop()

    def free(self, slot: int) -> None:
        self._free.append(slot)

    def grow(self, table: Tensor) -> Tensor:
        """A table ``[P, V]`` with rows for all slots; the same one where it has them."""
        missing = self._size - table.shape[0]
        return torch.cat([table, table.new_zeros(missing, table.shape[1])]) if missing else table

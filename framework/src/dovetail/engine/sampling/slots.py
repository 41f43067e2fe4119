"""Slots in device tables, for the few rows that need one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Upload = Callable[[np.ndarray], Tensor]


class SlotTable:
    """Allocates slots of tables. The tables are allocated with the first slot, and doubled when they are full."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._size = 0

    def allocate(self) -> int:
        """A free slot. Its content is undefined."""
        if not self._free:
            size = max(4, 2 * self._size)
            self._free = list(range(size - 1, self._size - 1, -1))
            self._size = size
        return self._free.pop()

    def free(self, slot: int) -> None:
        self._free.append(slot)

    def grow(self, table: Tensor) -> Tensor:
        """Return the table ``[P, V]`` with rows for all slots; the same one if it is large enough."""
        missing = self._size - table.shape[0]
        return torch.cat([table, table.new_zeros(missing, table.shape[1])]) if missing else table

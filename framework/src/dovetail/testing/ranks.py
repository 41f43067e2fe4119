"""Several ranks as threads of one process, for tests of models that are cut."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from dovetail.nn import Parallel
from dovetail.testing.harness import one_thread

Result = TypeVar("Result")


def run_ranks(size: int, work: Callable[[Parallel], Result], *, timeout: float = 60.0) -> list[Result]:
    """Run the same work as each of several ranks, which exchange tensors through the communicator of their
    :class:`dovetail.nn.Parallel`.

    The ranks' tensors are added in their order, so results are the same in every run. What an ``all_reduce`` was given
    is NaN afterwards, so that a model which reads it is noticed.

    Args:
        size: number of ranks.
        timeout: seconds that a rank waits for another at most.

    Returns:
        What each rank returned, in order.

    Raises:
        RuntimeError: the ranks do not exchange the same.
        TimeoutError: a rank did not come to an exchange that another waits for.
        BaseException: what the work raised in the first rank where it did. The others end, too.
    """
    meeting = _Meeting(size, timeout)
    results: list[Any] = [None] * size
    errors: list[BaseException | None] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Parallel(rank, size, RankCommunicator(meeting, rank)))
            meeting.bring(rank, "has ended", None)
        except BaseException as error:
            errors[rank] = error
            meeting.barrier.abort()  # nobody may wait for this rank any longer

    # Daemons, so that a rank which hangs does not keep the process from ending.
    threads = [threading.Thread(target=run, args=(rank,), name=f"rank-{rank}", daemon=True) for rank in range(size)]
    with one_thread():
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not meeting.barrier.broken:
                thread.join(0.05)
        for thread in threads:
            thread.join(timeout)
    told = [error for error in errors if error is not None and not isinstance(error, threading.BrokenBarrierError)]
    if told:
        raise told[0]
    if meeting.barrier.broken:
        late = [thread.name for thread in threads if thread.is_alive()] or ["one of them"]
        raise TimeoutError(f"ranks waited for {timeout} s, and {', '.join(late)} did not come")
    return results


class _Meeting:
    """Where the ranks bring what they exchange."""

    def __init__(self, size: int, timeout: float) -> None:
        self.barrier = threading.Barrier(size, timeout=timeout)
        self.turns = [0] * size
        # Two of each, in turns: who brings something again may not overwrite what others still read, and nobody is two turns ahead.
        self.calls = ([""] * size, [""] * size)
        self.brought: tuple[list[Tensor | None], ...] = ([None] * size, [None] * size)

    def bring(self, rank: int, call: str, value: Tensor | None) -> list[Tensor | None]:
        """What all ranks brought, once they did."""
        turn = self.turns[rank] % 2
        self.turns[rank] += 1
        calls, brought = self.calls[turn], self.brought[turn]
        calls[rank], brought[rank] = call, value
        self.barrier.wait()
        if len(set(calls)) > 1:
            told = ", ".join(f"rank {other} {does}" for other, does in enumerate(calls))
            raise RuntimeError(f"the ranks do not exchange the same: {told}")
        return brought


class RankCommunicator:
    """A rank's :class:`dovetail.nn.Communicator`."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        self.meeting = meeting
        self.rank = rank

    def all_reduce(self, x: Tensor) -> Tensor:
        own = x.clone()
        if x.is_floating_point():
            x.fill_(float("nan"))
        first, *others = self._exchange(f"adds {list(own.shape)} of {own.dtype}", own)
        total = first.clone()
        for other in others:
            total += other
        return total

    def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        assert x.shape[-1] == sizes[self.rank], f"rank {self.rank} gathers {x.shape[-1]} and says {list(sizes)}"
        return torch.cat(self._exchange(f"gathers {[*x.shape[:-1], *sizes]} of {x.dtype}", x.clone()), -1)

    def _exchange(self, call: str, x: Tensor) -> list[Tensor]:
        return [part for part in self.meeting.bring(self.rank, call, x) if part is not None]

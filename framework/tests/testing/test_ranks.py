"""run_ranks: exchanges in the order of the ranks, and no rank that hangs because another failed."""

from __future__ import annotations

import threading

import pytest
import torch

from dovetail.nn import Parallel
from dovetail.testing import run_ranks


def test_all_ranks_get_the_sum_in_their_order() -> None:
    def work(parallel: Parallel) -> torch.Tensor:
        own = torch.tensor([1e8, 1.0, -1e8])[parallel.rank].reshape(1)
        return parallel.communicator.all_reduce(own)

    sums = [float(total) for total in run_ranks(3, work)]
    assert (
        sums == [float((torch.tensor(1e8) + 1) - 1e8)] * 3
    )  # 1 is lost between the others, and would not be after them


def test_what_was_added_is_not_to_be_read() -> None:
    def work(parallel: Parallel) -> bool:
        x = torch.ones(2, 2)
        total = parallel.communicator.all_reduce(x)
        return bool(x.isnan().all()) and total.tolist() == [[2, 2], [2, 2]]

    assert run_ranks(2, work) == [True, True]


def test_parts_of_different_sizes_are_gathered() -> None:
    def work(parallel: Parallel) -> list[list[int]]:
        own = torch.full((2, 1 + parallel.rank), parallel.rank)
        return parallel.communicator.all_gather(own, [1, 2, 3]).tolist()

    assert run_ranks(3, work) == [[[0, 1, 1, 2, 2, 2]] * 2] * 3


def test_an_error_in_one_rank_ends_all() -> None:
    def work(parallel: Parallel) -> None:
        if parallel.rank == 1:
            raise ValueError("in rank 1")
        parallel.communicator.all_reduce(torch.ones(1))

    with pytest.raises(ValueError, match="in rank 1"):
        run_ranks(3, work)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rank-")]


def test_a_rank_that_ends_early_is_not_waited_for() -> None:
    def work(parallel: Parallel) -> None:
        if parallel.rank == 0:
            parallel.communicator.all_reduce(torch.ones(3))

    with pytest.raises(RuntimeError, match=r"rank 0 adds \[3\] of torch.float32, rank 1 has ended"):
        run_ranks(2, work)


def test_other_shapes_are_told() -> None:
    def work(parallel: Parallel) -> None:
        parallel.communicator.all_reduce(torch.ones(3 + parallel.rank))

    with pytest.raises(RuntimeError, match=r"rank 0 adds \[3\] .*, rank 1 adds \[4\]"):
        run_ranks(2, work)


def test_a_rank_that_hangs_is_told() -> None:
    released = threading.Event()

    def work(parallel: Parallel) -> None:
        if parallel.rank == 1:
            released.wait(20)

    try:
        with pytest.raises(TimeoutError, match=r"waited for 0.2 s, and rank-1 did not come"):
            run_ranks(2, work, timeout=0.2)
    finally:
        released.set()

"""check_routing: which numbers of experts a router can choose."""

from __future__ import annotations

import pytest
import torch

from dovetail.api import check_routing
from dovetail.nn import Ops

NAMES = ("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group")


@pytest.mark.parametrize("numbers", [(8, 3), (8, 8), (8, 3, 4, 2), (8, 4, 4, 2), (8, 3, 1, 9), (1, 1)])
def test_what_can_be_chosen_passes(numbers: tuple[int, ...]) -> None:
    check_routing(*numbers, bias=True)
    experts, *others = numbers
    ids, _ = Ops().route(torch.randn(2, experts), others[0], "sigmoid", True, torch.zeros(experts), *others[1:])
    assert ids.shape == (2, others[0])


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((8, 9), "num_experts_per_tok is 9, more than n_routed_experts, which is 8"),
        ((8, 3, 3, 2), "n_routed_experts is 8, not a multiple of n_group, which is 3"),
        ((8, 3, 4, 9), "topk_group is 9, more than n_group, which is 4"),
        ((8, 3, 8, 4), "n_group is 8, so each group has one of 8 experts"),
        ((8, 5, 4, 2), "num_experts_per_tok is 5, more than topk_group, which is 2, times the 2 experts of a group"),
        ((8, 0), "num_experts_per_tok is 0, wanted at least 1"),
    ],
)
def test_what_cannot_is_told_by_the_names_of_the_file(numbers: tuple[int, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_routing(*numbers, bias=True, names=NAMES)
    experts, *others = numbers
    with pytest.raises(ValueError, match=r"^(experts|top_k|groups|top_groups) is \d"):
        Ops().route(torch.randn(2, experts), others[0], "sigmoid", True, torch.zeros(experts), *others[1:])


def test_groups_of_one_expert_can_be_chosen_without_a_bias() -> None:
    check_routing(8, 4, 8, 4)
    assert Ops().route(torch.randn(2, 8), 4, groups=8, top_groups=4)[0].shape == (2, 4)


def test_a_score_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="scoring is 'tanh', wanted softmax or sigmoid"):
        Ops().route(torch.randn(2, 8), 4, "tanh")

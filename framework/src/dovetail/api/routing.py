"""What a mixture of experts can choose, checked where its numbers are read."""

from __future__ import annotations

NAMES = ("experts", "top_k", "groups", "top_groups")


def check_routing(
    experts: int,
    top_k: int,
    groups: int = 1,
    top_groups: int = 1,
    *,
    bias: bool = False,
    names: tuple[str, ...] = NAMES,
) -> None:
    """Check that a router can choose so many experts: for a validator of a configuration, before a model is built.

    Args:
        experts: of a layer.
        top_k: experts of a token.
        groups, top_groups: the experts are in so many groups, and a token's come from so many of them.
        bias: scores have a bias for the choice. Then a group is as good as its two best experts, so it has two.
        names: what the file calls these numbers; the last two may be left out.

    Raises:
        ValueError: it cannot; the message has the names and both numbers.
    """
    names = (*names, *NAMES[len(names) :])
    all_experts, chosen, all_groups, chosen_groups = names
    for name, value in zip(names, (experts, top_k, groups, top_groups), strict=True):
        if value < 1:
            raise ValueError(f"{name} is {value}, wanted at least 1")
    if top_k > experts:
        raise ValueError(f"{chosen} is {top_k}, more than {all_experts}, which is {experts}")
    if experts % groups:
        raise ValueError(f"{all_experts} is {experts}, not a multiple of {all_groups}, which is {groups}")
    if groups == 1:  # of which there is nothing to choose
        return
    if top_groups > groups:
        raise ValueError(f"{chosen_groups} is {top_groups}, more than {all_groups}, which is {groups}")
    size = experts // groups
    if bias and size < 2:
        raise ValueError(f"{all_groups} is {groups}, so each group has one of {experts} experts, wanted two or more")
    if top_k > top_groups * size:
        raise ValueError(
            f"{chosen} is {top_k}, more than {chosen_groups}, which is {top_groups}, times the {size} experts of a group"
        )

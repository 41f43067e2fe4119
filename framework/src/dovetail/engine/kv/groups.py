"""KV cache groups: layers with the same kind of cache share block tables. Memory is planned for all groups together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KVCacheGroup:
    """The layers of a model that share block tables.

    Attributes:
        block_bytes: size of one block, over all layers of the group.
        window: layers see so many of the last tokens; None for all.
        recurrent: layers keep one state of fixed size.
        chunk: layers see the tokens of the current chunk of this size; None for all.
    """

    block_bytes: int
    window: int | None = None
    recurrent: bool = False
    chunk: int | None = None

    @property
    def span(self) -> int | None:
        """The most tokens that a token sees; None for all before it."""
        return self.chunk if self.window is None else self.window

    def num_blocks(self, tokens: int, block_size: int) -> int:
        """Length of the block table for a sequence of this many tokens."""
        return 1 if self.recurrent else -(-tokens // block_size)

    def first_visible_block(self, computed: int, block_size: int) -> int:
        """Index of the first block that the token at position ``computed`` sees."""
        if self.chunk is not None:
            return computed // self.chunk * self.chunk // block_size
        if self.window is None:
            return 0
        return max(0, computed - self.window + 1) // block_size

    def max_blocks_held(self, tokens: int, new: int, block_size: int) -> int:
        """Maximum number of blocks that a sequence of this many tokens uses at once, if no step computes more than
        ``new`` tokens.
        """
        whole = self.num_blocks(tokens, block_size)
        if self.span is None:
            return whole
        # What is seen and what is new may both begin and end within a block.
        return min(whole, -(-(self.span + new) // block_size) + 1)


def plan_num_blocks(
    groups: Sequence[KVCacheGroup],
    budget: int,
    *,
    block_size: int,
    max_seqs: int,
    max_len: int,
    max_tokens: int,
    capped: bool = True,
    num_blocks: int | None = None,
) -> list[int]:
    """Number of blocks of each group, including the null block.

    A sliding, chunked or recurrent group gets what ``max_seqs`` sequences can use, so that it never runs out before the others
    do. The rest of the budget goes to the groups that keep all tokens. A group gets at most twice the blocks that
    requests can use; the other half is for the prefix cache.

    Args:
        budget: bytes.
        max_tokens: computed in one step.
        capped: whether a group gets at most twice the blocks that requests can use.
        num_blocks: number of blocks for groups that keep all tokens, whatever the budget is; other groups get at most
            this many.

    Returns:
        One count for each group; all 0 if the budget does not hold two blocks of each.
    """

    def counts(whole: int) -> list[int]:
        found = []
        for group in groups:
            if group.recurrent:
                most = max_seqs
            elif group.span is None:
                most = whole
            else:
                # Each sequence holds what it sees and parts of two blocks; all of them together compute no more than max_tokens in a step.
                most = max_seqs * (-(-group.span // block_size) + 2) + -(-max_tokens // block_size)
            found.append(1 + min(whole, most))
        return found

    def size(whole: int) -> int:
        return sum(n * g.block_bytes for n, g in zip(counts(whole), groups, strict=True))

    if num_blocks is not None:
        return counts(num_blocks)
    low, high = 0, 2 * max_seqs * -(-max_len // block_size)
    if not capped and (each := sum(g.block_bytes for g in groups if g.span is None and not g.recurrent)):
        high = budget // each
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle - 1)
    return counts(low) if low >= 1 else [0] * len(groups)


def max_tokens_that_fit(groups: Sequence[KVCacheGroup], counts: Sequence[int], *, block_size: int) -> int | None:
    """The longest sequence that fits if it is alone; None if no group sets a limit.

    The blocks of a sliding or chunked group limit what a step computes, not the length, as long as what a token sees
    and one more fit at every alignment.
    """
    limits = []
    for group, count in zip(groups, counts, strict=True):
        if group.span is None:
            if not group.recurrent:
                limits.append((count - 1) * block_size)
        elif count - 1 < group.max_blocks_held(
            group.span + 2 * block_size, 1, block_size
        ):  # of a sequence longer than that
            limits.append((count - 1) * block_size)
    return min(limits, default=None)

"""A trie for few sequences, which may be long: 4 bytes a node, where dictionaries would take hundreds."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

NONE = -1


class CompactTrie:
    """A trie of sequences of non-negative integers, such as token ids or code points.

    Nodes are numbers; 0 is the root. A sequence's new nodes follow each other, so that a node's first child is nearly
    always the next number. Only other children are in dictionaries, at most one for each sequence.
    """

    def __init__(self) -> None:
        # The symbol that leads to each node from the one before it; NONE for nodes that another one leads to.
        self._symbols = array("i", (NONE,))
        self._branches: dict[int, dict[int, int]] = {}

    def __len__(self) -> int:
        return len(self._symbols)

    def insert(self, sequence: Iterable[int]) -> int:
        """Add a sequence. Returns the node at its end."""
        node, symbols = 0, self._symbols
        steps = iter(sequence)
        for symbol in steps:
            child = self.child(node, symbol)
            if child == NONE:
                child = len(symbols)
                # Behind the newest node, if that has just been made, the next one stands by itself.
                if node == child - 1:
                    symbols.append(symbol)
                else:
                    self._branches.setdefault(node, {})[symbol] = child
                    symbols.append(NONE)
                symbols.extend(steps)
                return len(symbols) - 1
            node = child
        return node

    def child(self, node: int, symbol: int) -> int:
        """The child that a symbol leads to, or :data:`NONE`."""
        after = node + 1
        if after < len(self._symbols) and self._symbols[after] == symbol:
            return after
        branches = self._branches.get(node)
        return NONE if branches is None else branches.get(symbol, NONE)

    def children(self, node: int) -> Iterator[tuple[int, int]]:
        """Each child's symbol and node."""
        if node + 1 < len(self._symbols) and self._symbols[node + 1] != NONE:
            yield self._symbols[node + 1], node + 1
        if node in self._branches:
            yield from self._branches[node].items()

    def has_children(self, node: int) -> bool:
        return node in self._branches or (node + 1 < len(self._symbols) and self._symbols[node + 1] != NONE)

"""The compact trie against a set of beginnings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.text.compact_trie import NONE, CompactTrie

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), max_size=12)


def find(trie: CompactTrie, sequence: list[int]) -> int:
    node = 0
    for symbol in sequence:
        node = trie.child(node, symbol)
        if node == NONE:
            return NONE
    return node


@given(sequences=SEQUENCES, other=st.lists(st.integers(0, 2), max_size=8))
def test_there_is_a_node_for_each_beginning(sequences: list[list[int]], other: list[int]) -> None:
    trie = CompactTrie()
    ends = [trie.insert(sequence) for sequence in sequences]
    beginnings = {tuple(sequence[:i]) for sequence in sequences for i in range(len(sequence) + 1)} | {()}
    assert len(trie) == len(beginnings)
    nodes = {beginning: find(trie, list(beginning)) for beginning in beginnings}
    assert sorted(nodes.values()) == list(range(len(trie)))
    assert [nodes[tuple(sequence)] for sequence in sequences] == ends
    assert (find(trie, other) != NONE) == (tuple(other) in beginnings)
    for beginning, node in nodes.items():
        children = {symbol: nodes[(*beginning, symbol)] for symbol in range(3) if (*beginning, symbol) in nodes}
        assert dict(trie.children(node)) == children
        assert trie.has_children(node) == bool(children)

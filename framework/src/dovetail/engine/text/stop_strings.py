"""Finds stop strings in text that arrives in pieces, in a time that depends on the text alone (Aho and Corasick, 1975)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from dovetail.engine.text.compact_trie import NONE, CompactTrie


class StopAutomaton:
    """The automaton of a request's stop strings, which its completions share. It takes about 16 bytes a character.

    A node is a beginning of a stop string: the longest that the text so far ends with.

    Args:
        stops: the stop strings, none of them empty.

    Attributes:
        first_characters: the characters that stop strings begin with.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.first_characters = frozenset(stop[0] for stop in stops)
        self._trie = trie = CompactTrie()
        ends = {trie.insert(map(ord, stop)) for stop in stops}
        self._failure = array("i", bytes(4 * len(trie)))  # the node of the longest proper suffix that is one
        self._longest = array("i", bytes(4 * len(trie)))  # the longest stop string that ends here, as its node
        self._depth = array("i", bytes(4 * len(trie)))
        level = [0]
        while level:
            below: list[int] = []
            for node in level:
                for symbol, child in trie.children(node):
                    failure = self.advance(self._failure[node], symbol) if node else 0
                    self._failure[child] = failure
                    self._longest[child] = child if child in ends else self._longest[failure]
                    self._depth[child] = self._depth[node] + 1
                    below.append(child)
            level = below

    def advance(self, node: int, symbol: int) -> int:
        """The node after one more character."""
        while (child := self._trie.child(node, symbol)) == NONE:
            if not node:
                return 0
            node = self._failure[node]
        return child

    def match_length(self, node: int) -> int:
        """Length of the longest stop string that ends here; 0 for none."""
        return self._depth[self._longest[node]]

    def proper(self, node: int) -> tuple[int, int]:
        """The node of the longest beginning that is no whole stop string only, and its length."""
        while node and not self._trie.has_children(node):
            node = self._failure[node]
        return node, self._depth[node]


class StopStrings:
    """Finds stop strings, also across tokens.

    Text that may be the beginning of a stop string is held back until this is certain.

    Args:
        automaton: of the stop strings; if several begin at the same place, the longest one counts.
        include: whether the text that ended the output is shown.
    """

    def __init__(self, automaton: StopAutomaton, include: bool) -> None:
        self._automaton = automaton
        self._node = 0
        self.include = include
        self.held_text = ""

    def add(self, text: str, active: bool = True) -> tuple[str, str | None]:
        """Add text. Returns the text that can be shown, and the stop string that ended the output, if one did.

        Args:
            active: whether the output may end now. A stop string that is complete before that is ordinary text. One
                that begins before and is complete after ends the output.
        """
        automaton = self._automaton
        if not self._node and automaton.first_characters.isdisjoint(text):  # nearly always
            return text, None
        held = self.held_text + text
        node, found = self._node, None
        for end, symbol in enumerate(map(ord, text), len(self.held_text) + 1):
            node = automaton.advance(node, symbol)
            if active and (length := automaton.match_length(node)):
                # The first to appear; of those that begin together, the longest.
                match = (end - length, -length)
                found = match if found is None else min(found, match)
        if found is not None:
            self._node, self.held_text = 0, ""
            begin, end = found[0], found[0] - found[1]
            return held[: end if self.include else begin], held[begin:end]
        self._node, keep = automaton.proper(node)
        shown, self.held_text = held[: len(held) - keep], held[len(held) - keep :]
        return shown, None

    def flush(self) -> str:
        """The text that was held back, at the end of the output."""
        shown, self.held_text = self.held_text, ""
        self._node = 0
        return shown

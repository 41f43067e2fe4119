"""Checks SentencePiece's map of characters, which the library that uses it trusts.

Layout: 4 bytes with the size of a trie, the trie as a double array of 4-byte units (Yata et al., darts-clone), and the
replacements, each ended by a zero byte. A unit has a label in bits 0 to 7 and 31, a sign that a value follows in bit 8, and
the offset of its children in bits 9 to 30; a value is the start of a replacement.
"""

from __future__ import annotations

import sys
from array import array

MAX_REPLACEMENT = 256
"""Most bytes of a replacement. Each character of a text can become one; Unicode's longest has 33 bytes."""
VALUE = 1 << 31


def find_fault(charsmap: bytes) -> str | None:
    """What is wrong with a map: how a text could lead out of it; None if nothing is."""
    size = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or size == 0 or size % 4 or size > len(charsmap) - 4:
        return f"its trie has {size} bytes, of {len(charsmap)} in all"
    trie, replacements = array("I", charsmap[4 : 4 + size]), charsmap[4 + size :]
    if trie.itemsize != 4:
        return None  # no machine that torch runs on
    if sys.byteorder == "big":
        trie.byteswap()
    starts: set[int] = set()
    for place, unit in enumerate(trie):
        if unit & VALUE:
            continue  # a text never leads on from a value
        children = place ^ ((unit >> 10) << ((unit & 1 << 9) >> 6))
        if children | 255 >= len(trie):
            return f"unit {place} of its trie leads to unit {children | 255} of {len(trie)}"
        if unit & 1 << 8:
            starts.add(trie[children] & ~VALUE)
    return _find_bad_replacement(replacements, starts)


def _find_bad_replacement(replacements: bytes, starts: set[int]) -> str | None:
    for start in sorted(starts):
        if start > len(replacements):
            return f"a replacement begins at byte {start} of {len(replacements)}"
        end = replacements.find(0, start)
        piece = replacements[start : end if end >= 0 else len(replacements)]
        if len(piece) > MAX_REPLACEMENT:
            return f"the replacement at byte {start} has {len(piece)} bytes, wanted at most {MAX_REPLACEMENT}"
        try:
            piece.decode()
        except UnicodeDecodeError:
            return f"the replacement at byte {start} is not UTF-8"
    return None

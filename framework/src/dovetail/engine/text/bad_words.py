"""Converts bad words to token ids, and finds those that are about to be completed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from dovetail.api.errors import RequestError
from dovetail.engine.text.compact_trie import NONE, CompactTrie
from dovetail.engine.text.tokenizer import Tokenizer


def encode_bad_words(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Encode each text in the spellings that the model may write: at the beginning of a text and after a space, which
    are different tokens in most vocabularies. The time grows with their length alone, but it may be much; use another
    thread.

    Raises:
        RequestError: a text has no tokens.
    """
    bare = [word.lstrip(" ") or word for word in words]
    spellings = [text for word in bare for text in (word, f" {word}")]
    encoded = tokenizer.encode_batch(spellings, add_special_tokens=False)
    if not all(encoded):
        word = words[next(i for i, ids in enumerate(encoded) if not ids) // 2]
        shown = repr(word if len(word) <= 60 else f"{word[:60]}…")
        raise RequestError(
            f"bad_words holds {shown}, for which the tokenizer has no tokens", "leave it out", param="bad_words"
        )
    endings = CompactTrie()
    kept: list[list[int]] = []
    ends: set[int] = set()
    for ids in encoded:
        if not _is_covered(ids, endings, ends):
            ends.add(endings.insert(reversed(ids)))
            kept.append(ids)
    return kept


def _is_covered(ids: list[int], endings: CompactTrie, ends: set[int]) -> bool:
    """Whether these ids end with those of a word that was kept, which then forbids them already."""
    node = 0
    for token in reversed(ids):
        node = endings.child(node, token)
        if node == NONE:
            return False
        if node in ends:
            return True
    return False


class BadWords:
    """The token ids that must not follow each other in an output, made once for all completions of a request.

    A step costs as many look-ups as there are tokens at the output's end that begin a bad word, however many words
    there are.

    Args:
        words: token ids, none of them empty.
    """

    def __init__(self, words: Sequence[Sequence[int]] = ()) -> None:
        self.single = tuple(dict.fromkeys(word[0] for word in words if len(word) == 1))
        """Tokens that are forbidden at every step."""
        self._beginnings = CompactTrie()
        self._last: dict[int, list[int]] = {}
        for word in words:
            if len(word) > 1:
                node = self._beginnings.insert(reversed(word[:-1]))
                self._last.setdefault(node, []).append(word[-1])

    def __bool__(self) -> bool:
        return bool(self.single or self._last)

    @property
    def looks_back(self) -> bool:
        """Whether some words have several tokens, so that the output so far must be known."""
        return bool(self._last)

    def completing(self, output: Sequence[int], begin: int, draft: Sequence[int] = ()) -> Iterator[int]:
        """The tokens that would now complete a word of several tokens.

        Args:
            output: prompt and output.
            begin: where the output begins; a word that begins in the prompt is none.
            draft: tokens assumed to follow.
        """
        node = 0
        for tokens, count in ((draft, len(draft)), (output, len(output) - begin)):
            for token in islice(reversed(tokens), count):
                node = self._beginnings.child(node, token)
                if node == NONE:
                    return
                yield from self._last.get(node, ())

"""Encodes texts in which some control tokens are plain text.

The ``tokenizers`` library recognises a special token wherever it stands. So the same model gets another object, in
which control tokens are not known by their texts but by aliases, characters that the text does not have. These replace
the ones that are meant. All else is encoded as ever: the aliases have the tokens' flags.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken

from dovetail.api.errors import RequestError
from dovetail.engine.templates.marked_text import choose_marks
from dovetail.engine.templates.rendered_prompt import find_control_tokens

ALIASES = range(0x100000, 0x10FFFE)
"""Code points for aliases, which are for private use."""
FILLER = "\U0010ffff"
"""The beginning of texts that never occur: it is no character."""
NEIGHBOURS = ("", " ", "a", ".")
"""Texts beside a token, which decide how a text is split into words."""


def may_normalize_to(backend: tokenizers.Tokenizer, control_tokens: Collection[str]) -> bool:
    """Whether other texts may become control tokens by normalization, such as those with a Kelvin sign for a K."""
    added = backend.get_added_tokens_decoder().values()
    if backend.normalizer is None or not any(token.normalized and token.content in control_tokens for token in added):
        return False
    state = json.loads(backend.normalizer.__getstate__())
    steps = state["normalizers"] if state["type"] == "Sequence" else [state]
    return not {step["type"] for step in steps} <= {"Prepend", "Replace"}


class PlainEncoder:
    """Encodes texts, control tokens in given places as plain text.

    Args:
        backend: the ``tokenizers`` object, which is not changed. Its vocabulary is shared, not copied.
        control_tokens: texts of its special tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer, control_tokens: tuple[str, ...]) -> None:
        self._backend, self._control_tokens, self._model = backend, control_tokens, backend.model
        aliases = {token: chr(ALIASES.start + i) for i, token in enumerate(control_tokens)}
        self._aliased = _Aliased(backend, self._model, aliases)
        added = backend.get_added_tokens_decoder().values()
        self._words = frozenset(token.content for token in added if token.single_word)
        if spelled := self._find_spelled():
            self._model = _without_tokens(backend.model, spelled)
            self._aliased = _Aliased(backend, self._model, aliases)

    def _find_spelled(self) -> set[str]:
        """Control tokens that the model may use to write a plain text."""
        model = self._backend.model
        known = {token: id for token in self._control_tokens if (id := model.token_to_id(token)) is not None}
        if isinstance(model, tokenizers.models.Unigram):
            return set(known)
        known = {token: id for token, id in known.items() if any(each.id == id for each in model.tokenize(token))}
        found: set[str] = set()
        for before in NEIGHBOURS:
            for after in NEIGHBOURS:
                texts = [f"{before}{token}{after}" for token in known]
                encoded = self._aliased.backend.encode_batch_fast(texts, add_special_tokens=False)
                pairs = zip(known.items(), encoded, strict=True)
                found |= {token for (token, id), encoding in pairs if id in encoding.ids}
        return found

    def encode(self, text: str, plain: Collection[int], add_special_tokens: bool) -> list[int]:
        """Encode a text.

        Args:
            plain: offsets of control tokens that are plain text.
            add_special_tokens: add the tokens that the model expects around every text.

        Raises:
            RequestError: no character is left that could be an alias.
        """
        aliased = self._aliased
        if max(text, default="") >= chr(ALIASES.start):
            # Somebody writes in private characters, perhaps to pass for an alias.
            free = choose_marks(self._control_tokens, [text])
            if free is None:
                raise RequestError(
                    "the messages hold every private character of Unicode", "leave these out", param="messages"
                )
            aliased = _Aliased(self._backend, self._model, free)
        places, position = frozenset(plain), 0
        pieces: list[str] = []
        for start, end, is_plain in find_control_tokens(text, self._control_tokens, lambda start, _: start in places):
            # A token that is only one as a word of its own is plain text in a longer word.
            inside = text[start:end] in self._words and _joins(text[max(start - 1, 0) : start], text[end : end + 1])
            if not is_plain and not inside:
                pieces += (text[position:start], aliased.aliases[text[start:end]])
                position = end
        return aliased.encode("".join((*pieces, text[position:])), add_special_tokens)


class _Aliased:
    """A tokenizer that knows control tokens by their aliases.

    Attributes:
        aliases: control token → alias.
        backend: the ``tokenizers`` object; ids of added tokens are others than the vocabulary's.
    """

    def __init__(self, backend: tokenizers.Tokenizer, model: Any, aliases: Mapping[str, str]) -> None:
        self.aliases = aliases
        self.backend = tokenizers.Tokenizer(model)
        for part in ("normalizer", "pre_tokenizer", "post_processor"):
            if (value := getattr(backend, part)) is not None:
                setattr(self.backend, part, value)
        added = sorted(backend.get_added_tokens_decoder().items())
        self._skip_taken_ids(len(added))
        tokens = [self._alias(token) for _, token in added]
        self.backend.add_tokens(tokens)
        self._ids = {
            new: old
            for token, (old, _) in zip(tokens, added, strict=True)
            if (new := self.backend.token_to_id(token.content)) is not None and new != old
        }
        """Ids of this tokenizer that are others in the vocabulary."""

    def _alias(self, token: AddedToken) -> AddedToken:
        alias = self.aliases.get(token.content)
        if alias is None:
            return AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=False,
            )
        # Where the normalizer changes a token, the library does not find it in every place. An alias it always does.
        normalizer = self.backend.normalizer
        stays = normalizer is None or normalizer.normalize_str(token.content) == token.content
        return AddedToken(
            alias,
            single_word=False,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized and stays,
            special=False,
        )

    def _skip_taken_ids(self, count: int) -> None:
        """New tokens get ids from the vocabulary's size on. Where a vocabulary has gaps, some of these are taken."""
        model = self.backend.model
        size = begin = self.backend.get_vocab_size(with_added_tokens=False)
        while taken := [i for i in range(begin, begin + count) if model.id_to_token(i) is not None]:
            begin = taken[-1] + 1
        self.backend.add_tokens([AddedToken(f"{FILLER}{i}", normalized=False) for i in range(size, begin)])

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        encoding = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]
        # What is added around a text has the vocabulary's ids already.
        around = encoding.special_tokens_mask
        return [id if added else self._ids.get(id, id) for id, added in zip(encoding.ids, around, strict=True)]


def _joins(before: str, after: str) -> bool:
    """Whether a character beside a token belongs to a word."""
    return any(c.isalnum() or c == "_" for c in before + after)


def _without_tokens(model: Any, spelled: Collection[str]) -> Any:
    """A copy of the model that has other texts for some tokens, which never occur."""
    unknown = getattr(model, "unk_token", None)
    state = json.loads(model.__getstate__())
    vocabulary = state["vocab"]
    renamed = {token: f"{FILLER}{token}" for token in spelled if token != unknown}
    if isinstance(vocabulary, dict):
        state["vocab"] = {renamed.get(token, token): id for token, id in vocabulary.items()}
    else:
        unknown_id = state.get("unk_id")
        state["vocab"] = [
            [token if i == unknown_id else renamed.get(token, token), score]
            for i, (token, score) in enumerate(vocabulary)
        ]
    if "merges" in state:
        state["merges"] = [
            merge for merge in state["merges"] if not {*_sides(merge), "".join(_sides(merge))} & renamed.keys()
        ]
    copy = type(model)()
    copy.__setstate__(json.dumps(state).encode())
    return copy


def _sides(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right

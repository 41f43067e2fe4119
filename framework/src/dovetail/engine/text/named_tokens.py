"""Access to tokens by name and id, for scripts: named special tokens, and all tokens by their spelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dovetail.api.errors import RequestError
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.engine.text.tokenizer_files import NAMED_TOKENS


class _Token:
    """``eos_token`` and the like: the text of a special token, or None. It can be set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, holder: NamedTokens, owner: type | None = None) -> Any:
        return self if holder is None else holder._named.get(self._name)

    def __set__(self, holder: NamedTokens, value: str | None) -> None:
        holder._set_named(self._name, value)


class _TokenId:
    """``eos_token_id`` and the like: the token's id, or None. It can be set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name.removesuffix("_id")

    def __get__(self, holder: NamedTokens, owner: type | None = None) -> Any:
        return self if holder is None else holder._find_named_id(self._name)

    def __set__(self, holder: NamedTokens, value: int | None) -> None:
        token = None if value is None else holder._inner.id_to_token(value)
        if value is not None and token is None:
            raise RequestError(
                f"there is no token {value}", f"ids are 0 to {len(holder) - 1}", param=f"{self._name}_id"
            )
        holder._set_named(self._name, token)


class NamedTokens:
    """The vocabulary of a tokenizer, and its named special tokens, which scripts can change.

    Args:
        tokenizer: the engine's; it is not changed.
    """

    bos_token, eos_token, unk_token, sep_token = _Token(), _Token(), _Token(), _Token()
    pad_token, cls_token, mask_token = _Token(), _Token(), _Token()
    bos_token_id, eos_token_id, unk_token_id, sep_token_id = _TokenId(), _TokenId(), _TokenId(), _TokenId()
    pad_token_id, cls_token_id, mask_token_id = _TokenId(), _TokenId(), _TokenId()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._inner = tokenizer
        self._named = dict(tokenizer.special_tokens)

    def __len__(self) -> int:
        """Number of tokens, including added ones."""
        return self._inner.vocab_size

    def _find_named_id(self, name: str) -> int | None:
        token = self._named.get(name)
        if token is None:
            return self._inner.eos_token_id if name == "eos_token" else None
        return self._inner.token_to_id(token)

    def _set_named(self, name: str, token: str | None) -> None:
        if token is None:
            self._named.pop(name, None)
        elif self._inner.token_to_id(str(token)) is None:
            raise RequestError(
                f"{name} was set to {token!r}, which is no token of this vocabulary",
                "name one that there is; new tokens would need rows in the model's embedding",
                param=name,
            )
        else:
            self._named[name] = str(token)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, without added ones; ``len(tokenizer)`` counts those too."""
        return self._inner.backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Token → id, added tokens included."""
        return self._inner.get_vocab()

    vocab = property(get_vocab)

    def get_added_vocab(self) -> dict[str, int]:
        """Token → id of added tokens."""
        return {token.content: i for i, token in sorted(self._inner.backend.get_added_tokens_decoder().items())}

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Special tokens by name, such as ``eos_token``."""
        return dict(self._named)

    @property
    def all_special_tokens(self) -> list[str]:
        """Named special tokens, then the others that ``skip_special_tokens`` removes."""
        named = [self._named[name] for name in NAMED_TOKENS if name in self._named]
        others = [str(self._inner.id_to_token(i)) for i in sorted(self._inner.special_ids)]
        return list(dict.fromkeys(named + others))

    @property
    def all_special_ids(self) -> list[int]:
        return [i for token in self.all_special_tokens if (i := self._inner.token_to_id(token)) is not None]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or the ids of a list of tokens. Unknown tokens get the unknown token's id (or None)."""
        if isinstance(tokens, str):
            found = self._inner.token_to_id(tokens)
            return self._find_named_id("unk_token") if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a list of ids, as the vocabulary spells them."""
        if isinstance(ids, int):
            return self._inner.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._inner.id_to_token(int(i)) for i in ids if int(i) not in skipped]

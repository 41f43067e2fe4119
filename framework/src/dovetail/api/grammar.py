"""The interface of grammar backends. They restrict what a model may write (structured output)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import tokenizers

STRICT = "x-strict"
"""A keyword in a JSON schema. If it is true, unsupported keywords there are an error instead of being ignored."""

GrammarKind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]


@dataclass(frozen=True)
class GrammarSource:
    """The format that the output must have.

    Attributes:
        kind: the notation of ``text``.
        text: for ``json`` a JSON schema; for ``json_object`` empty, because any object is valid; for ``regex`` an
            expression that matches the whole output; for ``choice`` a JSON list of texts; for ``grammar`` EBNF in the
            backend's notation; for ``structural_tag`` JSON as vLLM defines it, in one of two notations. The newer one
            is xgrammar's: ``format`` holds an object with a ``type`` out of ``const_string``, ``json_schema``,
            ``regex``, ``grammar``, ``any_text``, ``sequence``, ``or``, ``optional``, ``star``, ``plus``, ``repeat``,
            ``tag``, ``triggered_tags`` and ``tags_with_separator``, and with the fields of that type, which may be such
            objects again. The older one (``structures``, each with ``begin``, ``schema`` and ``end``, and ``triggers``)
            is a ``triggered_tags``. Special tokens in the texts of either stand for the tokenizer's special tokens.

    JSON schemas, in any kind, are read as their users mean them:

    - White space between two parts of JSON is limited: one new line and an indentation, a space, or nothing.
    - ``null`` as the value of a keyword, an unknown ``format`` and unknown keywords are ignored. ``$ref`` can refer to
      any place in the same schema.
    - A keyword that the backend does not support is ignored, and ``validate_source`` returns a notice of it. With
      ``"x-strict": true`` in the schema, or in one that contains it, the source is refused instead.
    - A schema without any valid value is refused. An accepted schema never leads to a state in which no token is
      allowed.
    """

    kind: GrammarKind
    text: str


class GrammarState(ABC):
    """The state of one sequence in its grammar. Used by one thread at a time."""

    @abstractmethod
    def accept(self, token: int) -> bool:
        """Advance by one token. Returns False, without changing the state, if the grammar does not allow the token.

        It may accept tokens that :meth:`fill_mask` leaves out, such as other spellings of a required text. After an end
        token, only end tokens are allowed, any number of them.

        Raises:
            RequestError: the sequence cannot continue because of a limit of the backend.
        """

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Undo the last ``count`` accepted tokens."""

    @abstractmethod
    def fill_mask(self, mask: np.ndarray) -> None:
        """Write the mask of tokens that may follow.

        Args:
            mask: int32 ``[ceil(V / 32)]``; bit ``i % 32`` of word ``i // 32`` is set if token ``i`` may follow. All
                end-of-sequence tokens are set where the grammar may end, and only they where it must end. Ids that the
                tokenizer lacks are never set.

        Raises:
            RequestError: the sequence cannot continue: no token may follow, or because of a limit of the backend.
        """


class Grammar(ABC):
    """A compiled grammar. Any number of sequences share it, and their states are used by different threads at once."""

    @abstractmethod
    def start(self) -> GrammarState:
        """The state of a new sequence."""

    @property
    def num_bytes(self) -> int | None:
        """Memory in bytes that the grammar holds now, together with the states of its sequences; measured rather than
        guessed, and at least what it is. It may grow while the grammar is used.

        The engine keeps compiled grammars up to a number of bytes, and compiles no more of them while those in use
        exceed it. None, the default, for a backend that cannot tell: then the engine takes what its process grew by
        while the grammar was compiled.
        """
        return None


class GrammarBackend(ABC):
    """Compiles grammars for one tokenizer.

    Args:
        tokenizer: the model's.
        vocab_size: of the model's logits, which may be more than the tokenizer has.
        eos_ids: end-of-sequence tokens.

    Raises:
        RequestError: the backend does not support the tokenizer, or no output could end.
    """

    @abstractmethod
    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None: ...

    @abstractmethod
    def compile(self, source: GrammarSource) -> Grammar:
        """Compile one source. May be slow. It is called from several threads, so long waits must release the GIL.

        Raises:
            RequestError: the source does not compile, or uses a feature that the backend lacks; says what.
        """

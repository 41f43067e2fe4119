"""The contract of grammar backends, which keep outputs within a form (structured output)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import tokenizers

STRICT = "x-strict"
"""A word in a JSON schema: where it is true, nothing that the schema says there may be left out."""

GrammarKind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]


@dataclass(frozen=True)
class GrammarSource:
    """What the output must be.

    Attributes:
        kind: what the text is.
        text: for ``json`` a JSON schema; for ``json_object`` nothing, since any object will do; for ``regex`` an expression that matches the whole
            output; for ``choice`` a JSON list of texts; for ``grammar`` EBNF in the backend's notation; for ``structural_tag`` JSON as vLLM defines
            it, in either of two forms. The newer one is xgrammar's: ``format`` holds an object with a ``type`` out of ``const_string``, ``json_schema``,
            ``regex``, ``grammar``, ``any_text``, ``sequence``, ``or``, ``optional``, ``star``, ``plus``, ``repeat``, ``tag``, ``triggered_tags`` and
            ``tags_with_separator``, and with the fields of that type, which may be such objects again. The older one (``structures``, each with ``begin``,
            ``schema`` and ``end``, and ``triggers``) is a ``triggered_tags``. Special tokens of the tokenizer amid the texts of either are those tokens.

    JSON schemas, in either kind, are meant as their users write them:

    - White space between two parts of JSON has an end: one new line and an indentation, a space, or nothing.
    - ``null`` as the value of a keyword, an unknown ``format`` and unknown words say nothing. ``$ref`` leads to any place in the same schema.
    - A keyword that the backend lacks is left out, and ``validate_source`` returns a notice of it. Where ``"x-strict": true`` stands in a schema, or in
      one around it, the form is refused instead.
    - What nothing can have is refused; what is taken never leads to a place where no token may follow.
    """

    kind: GrammarKind
    text: str


class GrammarState(ABC):
    """Where one sequence stands in its grammar. Used by one thread at a time."""

    @abstractmethod
    def accept(self, token: int) -> bool:
        """Go on by a token; False, and nothing changed, if the grammar does not allow it.

        It may take tokens that :meth:`fill_mask` leaves out: other spellings of a text that must follow. After an end token, end tokens alone are
        allowed, as often as they come.

        Raises:
            RequestError: the sequence cannot go on, for a limit of the backend's.
        """

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Take back the last ``count`` accepted tokens."""

    @abstractmethod
    def fill_mask(self, mask: np.ndarray) -> None:
        """Write which tokens may follow.

        Args:
            mask: int32 ``[ceil(V / 32)]``; bit ``i % 32`` of word ``i // 32`` is set where token ``i`` may follow. All end-of-sequence
                tokens are among them where the grammar may end, and they alone where it must. Ids that the tokenizer lacks never are.

        Raises:
            RequestError: the sequence cannot go on: no token may follow, or for a limit of the backend's.
        """


class Grammar(ABC):
    """A compiled grammar; shared by any number of sequences, whose states are used by different threads at once."""

    @abstractmethod
    def start(self) -> GrammarState:
        """The state of a new sequence."""


class GrammarBackend(ABC):
    """Compiles grammars for one tokenizer.

    Args:
        tokenizer: the model's.
        vocab_size: of the model's logits, which may be more than the tokenizer has.
        eos_ids: tokens that end an output.

    Raises:
        RequestError: the backend cannot spell the tokenizer's tokens, or no output could end.
    """

    @abstractmethod
    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None: ...

    @abstractmethod
    def compile(self, source: GrammarSource) -> Grammar:
        """Compile one source. May take long, and is called from several threads: what it waits for should let go of the interpreter.

        Raises:
            RequestError: the text does not compile, or uses what the backend lacks; says what.
        """

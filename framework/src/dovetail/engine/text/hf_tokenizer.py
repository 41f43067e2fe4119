"""The model's tokenizer with the interface of transformers: the same names, arguments and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tokenizers

from dovetail.api.errors import RequestError
from dovetail.engine.text.batch_encoding import BatchEncoding, Padding, Tensors, pad_rows, to_tensor
from dovetail.engine.text.named_tokens import NamedTokens
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.engine.text.tokenizer_files import CONFIG_FILE, read_object
from dovetail.engine.text.truncation import Side
from dovetail.kernel.plan import Plan

VERY_LARGE = int(1e30)
"""``model_max_length`` of tokenizers without one, as in transformers."""
SPACES_BEFORE = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Replacements of ``clean_up_tokenization_spaces``, in this order: removes spaces before punctuation and English
contractions.
"""


class HFTokenizer(NamedTokens):
    """Text to ids and back, for scripts. It uses the engine's own tokenizer.

    Args:
        tokenizer: the engine's. Setting a chat template here also sets it there.
        name_or_path: where it comes from.
        config: entries of ``tokenizer_config.json``: ``model_max_length``, ``padding_side``, ``truncation_side`` and
            ``clean_up_tokenization_spaces`` are read.

    Attributes:
        padding_side, truncation_side: ``left`` or ``right``.
        model_max_length: length for ``truncation=True`` without ``max_length``.
    """

    is_fast = True

    def __init__(self, tokenizer: Tokenizer, name_or_path: str = "", config: Mapping[str, Any] | None = None) -> None:
        super().__init__(tokenizer)
        config = config or {}
        self.name_or_path = name_or_path
        self.padding_side: str = config.get("padding_side") or "right"
        self.truncation_side: str = config.get("truncation_side") or "right"
        self.model_max_length: int = config.get("model_max_length") or VERY_LARGE
        self.clean_up_tokenization_spaces: bool = bool(config.get("clean_up_tokenization_spaces", False))

    @classmethod
    def from_plan(cls, tokenizer: Tokenizer, plan: Plan) -> Self:
        """Make it from a plan's tokenizer."""
        return cls(
            tokenizer,
            plan.checkpoint.tokenizer_path or plan.model,
            read_tokenizer_config(plan.checkpoint.tokenizer_path),
        )

    def __repr__(self) -> str:
        return f"HFTokenizer(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, special_tokens={self.special_tokens_map})"

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The object of the ``tokenizers`` library."""
        return self._inner.backend

    @property
    def chat_template(self) -> Any:
        """Jinja source, or several by name."""
        return self._inner.chat_template

    @chat_template.setter
    def chat_template(self, template: str | Mapping[str, str] | None) -> None:
        self._inner.chat_template = template

    # -- text to ids

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Tensors | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchEncoding:
        """Encode one text (lists of numbers) or several (lists of such lists).

        Args:
            text_pair: the second text of each pair, for a cross-encoder.
            padding: to the longest text (True), or to ``max_length`` (``"max_length"``).
            truncation: to ``max_length``, or to :attr:`model_max_length`.
            return_tensors: ``pt`` or ``np`` for int64 ``[N, T]``; one text is a batch of one then.
            return_attention_mask: False leaves ``attention_mask`` out.

        Raises:
            RequestError: an argument is not valid; says which.
        """
        single = isinstance(text, str)
        texts, pairs = _read_texts("text", text), None if text_pair is None else _read_texts("text_pair", text_pair)
        if pairs is not None and len(pairs) != len(texts):
            raise RequestError(f"{len(texts)} texts have {len(pairs)} pairs", "give one each", param="text_pair")
        limit = self._read_limit(truncation, max_length, padding)
        rows = self._encode(texts, pairs, limit, add_special_tokens)
        length = max_length
        if padding == "max_length" and length is None and self.model_max_length < VERY_LARGE:
            length = self.model_max_length
        side = self.padding_side if padding_side is None else padding_side
        rows, masks = pad_rows(
            rows, padding, self.pad_token_id, side, max_length=length, multiple_of=pad_to_multiple_of
        )
        found: dict[str, Any] = {"input_ids": rows}
        if return_attention_mask is not False:
            found["attention_mask"] = masks
        if return_tensors is not None:
            return BatchEncoding({name: to_tensor(value, return_tensors) for name, value in found.items()})
        return BatchEncoding({name: value[0] for name, value in found.items()} if single else found)

    encode_plus = batch_encode_plus = __call__

    def encode(
        self, text: str, text_pair: str | None = None, *, add_special_tokens: bool = True, **options: Any
    ) -> Any:
        """Encode one text. Options as for a call.

        Raises:
            RequestError: as a call.
        """
        if not isinstance(text, str):
            raise RequestError(
                f"encode was given a {type(text).__name__}",
                "give one text, or call the tokenizer with a list",
                param="text",
            )
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The tokens of a text, as the vocabulary spells them."""
        ids = self._encode([text], None if pair is None else [pair], None, add_special_tokens)[0]
        return [str(self._inner.id_to_token(i)) for i in ids]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Number of special tokens that are added to a text, or to a pair."""
        return self._inner.backend.num_special_tokens_to_add(pair)

    def _encode(
        self, texts: list[str], pairs: list[str] | None, limit: int | None, add_special_tokens: bool
    ) -> list[list[int]]:
        if pairs is None and limit is None:
            return self._inner.encode_batch(texts, add_special_tokens)
        side: Side = "left" if self.truncation_side == "left" else "right"
        both: list[tuple[str, str | None]] = (
            [(text, None) for text in texts] if pairs is None else list(zip(texts, pairs, strict=True))
        )
        encode = self._inner.encode_within
        return [encode(text, limit, pair=pair, side=side, add_special_tokens=add_special_tokens) for text, pair in both]

    def _read_limit(self, truncation: bool | str | None, max_length: int | None, padding: Padding | None) -> int | None:
        if truncation in (None, False, "do_not_truncate"):
            # A length alone, without a word of padding, asks to be cut to.
            asked = truncation is None and padding in (None, False, "do_not_pad")
            return max_length if asked else None
        if truncation not in (True, "longest_first"):
            raise RequestError(
                f"truncation is {truncation!r}",
                "wanted True, False, longest_first or do_not_truncate",
                param="truncation",
            )
        if max_length is not None:
            return max_length
        return self.model_max_length if self.model_max_length < VERY_LARGE else None

    # -- ids to text

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of ids: a number, a list, or a tensor or array of one dimension."""
        ids = _read_ids(token_ids)
        text = self._inner.decode([ids] if isinstance(ids, int) else ids, skip_special_tokens)
        cleans = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        return _clean_up(text) if cleans else text

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """The text of each row of ids."""
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens in the vocabulary's spelling."""
        backend = self._inner.backend
        return backend.decoder.decode(list(tokens)) if backend.decoder is not None else " ".join(tokens)

    # -- conversations

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: Padding | None = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: Tensors | None = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Render a conversation, or a list of several, with the chat template.

        Args:
            tools, documents, chat_template, continue_final_message: see
                :meth:`dovetail.engine.text.tokenizer.Tokenizer.apply_chat_template`.
            add_generation_prompt: end with the beginning of the assistant's next message.
            tokenize: False for the text.
            padding, truncation, max_length, return_tensors: as for a call.
            return_dict: return a :class:`BatchEncoding` instead of only the ids.
            kwargs: further variables for the template, such as ``enable_thinking``.

        Returns:
            The ids; for several conversations, a list.

        Raises:
            RequestError: there is no template, it refuses the messages, or an argument is not valid.
        """
        first = next(iter(conversation), None)
        several = first is not None and not isinstance(first, Mapping)
        conversations: Any = conversation if several else [conversation]
        texts = [
            self._inner.apply_chat_template(
                [dict(message) for message in messages],
                tools=tools,
                documents=documents,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **{**self.special_tokens_map, **kwargs},
            )
            for messages in conversations
        ]
        if not tokenize:
            return texts if several else texts[0]
        found = self(
            texts if several else texts[0],
            add_special_tokens=False,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
        )
        return found if return_dict else found["input_ids"]

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The Jinja source for conversations.

        Raises:
            RequestError: there is none.
        """
        return self._inner.find_chat_template(chat_template, with_tools=bool(tools))


def read_tokenizer_config(tokenizer_path: str | None) -> dict[str, Any]:
    """Read ``tokenizer_config.json`` beside a tokenizer's files; empty if there is none."""
    if not tokenizer_path:
        return {}
    path = Path(tokenizer_path)
    return read_object((path if path.is_dir() else path.parent) / CONFIG_FILE)


def _read_texts(name: str, given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"{name} is a {type(given).__name__}", "give a text, or a list of texts", param=name)
    return list(texts)


def _read_ids(given: Any) -> Any:
    """A number or a list of numbers, from any array or sequence."""
    return given.tolist() if hasattr(given, "tolist") else given if isinstance(given, int) else [int(i) for i in given]


def _clean_up(text: str) -> str:
    for spaced in SPACES_BEFORE:
        text = text.replace(spaced, spaced.strip())
    return text

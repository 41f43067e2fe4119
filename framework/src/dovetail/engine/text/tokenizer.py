"""Tokenizers: text to ids and back, for all kinds of tokenizer files.

All of them use the ``tokenizers`` library and differ only in how its object is built: :func:`from_folder` reads the
files of a Hugging Face checkpoint, and loaders read those of their own containers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import tokenizers

from dovetail.api.checkpoint import TokenizerParts
from dovetail.api.errors import RequestError
from dovetail.engine.templates import chat_template as chat
from dovetail.engine.templates.rendered_prompt import RenderedPrompt
from dovetail.engine.text.detokenizer import ByteDecoder, IncrementalDetokenizer
from dovetail.engine.text.library_errors import explain_text_errors
from dovetail.engine.text.plain_encoding import PlainEncoder, may_normalize_to
from dovetail.engine.text.token_lengths import LongestToken, find_longest_token
from dovetail.engine.text.tokenizer_files import DEFAULT_TEMPLATE, read_tokenizer_parts
from dovetail.engine.text.truncation import Side, encode_within

TOOL_TEMPLATE = "tool_use"
CONTROL_FORM = re.compile(r"<[|｜].+>|<.+[|｜]>|\[/?\w*[A-Z]{3,}\]|<(start|end)_of_\w+>|</?s>", re.DOTALL)
"""How vocabularies write tokens that structure prompts. Some do not declare these as special, such as ``<｜User｜>`` and
``<|START_OF_TURN_TOKEN|>``. Tags like ``<think>``, which models write in their answers, are others.
"""


class Tokenizer:
    """Converts text to ids and back, and conversations to text.

    Args:
        backend: the ``tokenizers`` object.
        special_tokens: special tokens by name, such as ``bos_token`` → ``<s>``.
        eos_token_ids: every token that ends an output; by default the one named ``eos_token``.
        chat_template: Jinja source, or several by name. Those named ``default`` and ``tool_use`` are selected
            automatically.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        eos_token_ids: Sequence[int] = (),
        chat_template: str | Mapping[str, str] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.chat_template = chat_template
        self.chat_template_content_format: chat.ContentFormatOption = "auto"
        self.byte_decoder = ByteDecoder.from_backend(backend)
        """The bytes of tokens, if decoding only needs these."""
        self.special_ids = frozenset(i for i, t in backend.get_added_tokens_decoder().items() if t.special)
        """Ids of special tokens, which ``skip_special_tokens`` removes from a text."""
        ends = eos_token_ids or (self._named_id("eos_token"),)
        self.eos_token_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
        self.allow_special_tokens_in_content = False
        """Whether control tokens in what messages say are tokenized as such."""
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_parts(cls, parts: TokenizerParts) -> Tokenizer:
        return cls(
            parts.backend,
            special_tokens=parts.special_tokens,
            eos_token_ids=parts.eos_token_ids,
            chat_template=parts.chat_template,
        )

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)

    @cached_property
    def vocab_size(self) -> int:
        """Number of tokens, including added ones. A model's embedding may be larger."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @cached_property
    def bos_token_id(self) -> int | None:
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The first of :attr:`eos_token_ids`."""
        return self.eos_token_ids[0] if self.eos_token_ids else None

    @cached_property
    def pad_token_id(self) -> int | None:
        return self._named_id("pad_token")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Encode a text. Special tokens in the text are recognised.

        Args:
            add_special_tokens: add the special tokens that the model expects around every text, such as BOS. Text from
                a chat template has them already.
        """
        # A batch of one, since the library lets go of the interpreter's lock for batches alone: a text of megabytes must not stop other threads.
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """Encode several texts, on all threads."""
        checked = [*map(_check_encodable, texts)]
        with explain_text_errors():
            batch = self.backend.encode_batch_fast(checked, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in batch]

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """Tokens that mean something else in a prompt than what they say: special ones, and those that are written like
        them (see :data:`CONTROL_FORM`). White space is none.
        """
        added, named = self.backend.get_added_tokens_decoder().values(), set(self.special_tokens.values())
        return tuple(
            sorted(
                token.content
                for token in added
                if (token.special or token.content in named or CONTROL_FORM.fullmatch(token.content))
                and token.content.strip()
            )
        )

    @property
    def content_control_tokens(self) -> tuple[str, ...]:
        """Control tokens that are plain text in what messages say: all or, as
        :attr:`allow_special_tokens_in_content` says, none.
        """
        return () if self.allow_special_tokens_in_content else self.control_tokens

    @cached_property
    def _may_normalize_to_control(self) -> bool:
        return may_normalize_to(self.backend, self.control_tokens)

    @cached_property
    def _plain_encoder(self) -> PlainEncoder:
        return PlainEncoder(self.backend, self.control_tokens)

    def encode_rendered(self, prompt: RenderedPrompt, add_special_tokens: bool = False) -> list[int]:
        """Encode a rendered conversation. Control tokens that come from messages become plain text.

        Args:
            add_special_tokens: as for :meth:`encode`.
        """
        if self.allow_special_tokens_in_content or not (prompt.plain or self._may_normalize_to_control):
            return self.encode(prompt.text, add_special_tokens)
        text = _check_encodable(prompt.text)
        with explain_text_errors():
            return self._plain_encoder.encode(text, prompt.plain, add_special_tokens)

    @cached_property
    def _longest_token(self) -> LongestToken | None:
        return find_longest_token(self.backend)

    def min_token_count(self, text: str) -> int:
        """A lower bound of the text's number of tokens, computed from its length; 0 if the vocabulary allows no
        bound.
        """
        return self._longest_token.min_token_count(text) if self._longest_token else 0

    def encode_within(
        self,
        text: str,
        limit: int | None,
        *,
        pair: str | None = None,
        side: Side = "right",
        add_special_tokens: bool = True,
    ) -> list[int]:
        """Encode a text, or a pair of texts for a cross-encoder.

        Args:
            limit: maximum number of tokens. The texts are truncated at their ``side``, and the special tokens around
                them stay. None for no limit.
            pair: the second text.
        """
        other = None if pair is None else _check_encodable(pair)
        checked = _check_encodable(text)
        with explain_text_errors():
            return encode_within(self.backend, checked, other, limit, side, add_special_tokens)

    def decode(self, ids: Sequence[int] | int, skip_special_tokens: bool = True) -> str:
        """Decode ids. Invalid UTF-8 becomes U+FFFD."""
        if isinstance(ids, int):
            ids = [ids]
        if self.byte_decoder is None:
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        incremental = IncrementalDetokenizer(self, skip_special_tokens)
        return incremental.add(ids) + incremental.flush()

    def token_bytes(self, id: int) -> bytes:
        """The bytes of a token; for vocabularies without byte spellings, the token's text. Empty for an unknown id."""
        spelled = self._bytes.get(id)
        if spelled is None:
            token = self.backend.id_to_token(id) if id >= 0 else None
            if token is None:
                spelled = b""
            elif self.byte_decoder:
                spelled = self.byte_decoder.token_to_bytes(token)
            else:
                spelled = self.backend.decode([id], skip_special_tokens=False).encode()
            self._bytes[id] = spelled
        return spelled

    def id_to_token(self, id: int) -> str | None:
        """The token as the vocabulary spells it."""
        return self.backend.id_to_token(id) if id >= 0 else None

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self.id_to_token(i) for i in ids]

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int | None]:
        return [self.token_to_id(t) for t in tokens]

    def get_vocab(self) -> dict[str, int]:
        """Token → id, added tokens included."""
        return self.backend.get_vocab(with_added_tokens=True)

    def find_chat_template(self, chat_template: str | None = None, *, with_tools: bool = False) -> str:
        """The Jinja source for a conversation.

        Args:
            chat_template: the name of one of the model's templates, or the source of another; None for the model's
                default.
            with_tools: prefer the model's template for tools.

        Raises:
            RequestError: the model has no template, or several and no default.
        """
        own = (
            {DEFAULT_TEMPLATE: self.chat_template} if isinstance(self.chat_template, str) else self.chat_template or {}
        )
        if chat_template is not None:
            return own.get(chat_template, chat_template)
        for name in (TOOL_TEMPLATE, DEFAULT_TEMPLATE) if with_tools else (DEFAULT_TEMPLATE,):
            if name in own:
                return own[name]
        if own:
            raise RequestError(
                f"the model has the chat templates {', '.join(sorted(own))} and none of them is the default",
                "name one as chat_template",
                param="chat_template",
            )
        raise RequestError(
            "the model has no chat template, so it can only complete text",
            "use /v1/completions, or start the server with --chat-template",
            param="messages",
        )

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_content_format: chat.ContentFormatOption | None = None,
        **kwargs: Any,
    ) -> str:
        """Render a conversation as text. Encode it without ``add_special_tokens``.

        Args:
            messages: as in OpenAI's API.
            tools: function definitions, as in OpenAI's API.
            documents: for templates that quote sources.
            add_generation_prompt: end with the beginning of the assistant's next message.
            continue_final_message: end inside the last message, so that the model continues it.
            chat_template: see :meth:`find_chat_template`.
            chat_template_content_format: how contents reach the template; by default as
                :attr:`chat_template_content_format` says.
            kwargs: further variables for the template, such as ``enable_thinking``.

        Raises:
            RequestError: there is no template, or it refuses the messages.
        """
        return self._render(
            messages,
            (),
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            **kwargs,
        ).text

    def render_prompt(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> RenderedPrompt:
        """Render a conversation for :meth:`encode_rendered`. Arguments and errors as for :meth:`apply_chat_template`."""
        return self._render(messages, self.content_control_tokens, **options)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        control_tokens: Sequence[str],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_content_format: chat.ContentFormatOption | None = None,
        **kwargs: Any,
    ) -> RenderedPrompt:
        return chat.render_prompt(
            self.find_chat_template(chat_template, with_tools=bool(tools)),
            messages,
            control_tokens=control_tokens,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self.special_tokens, **kwargs},
            content_format=chat_template_content_format or self.chat_template_content_format,
        )


def _check_encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the text holds half of a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}, "
            "which is no character",
            "send whole characters",
        ) from None
    return text


def from_folder(path: str) -> Tokenizer:
    """The tokenizer of a Hugging Face checkpoint; see :func:`read_tokenizer_parts`."""
    return Tokenizer.from_parts(read_tokenizer_parts(path))

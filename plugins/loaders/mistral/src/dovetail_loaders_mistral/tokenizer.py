"""Builds the tokenizer of ``tekken.json`` or of a SentencePiece model, with the chat template that belongs to it.

Both are described by the package ``mistral-common``, and a SentencePiece model by the library's ``sentencepiece_model.proto``.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from dovetail.api import DOWNLOAD_AGAIN, CheckpointError, TokenizerParts, one_line, quote_foreign, read_json, read_text
from dovetail_loaders_mistral.inspection import SENTENCEPIECE, TEKKEN
from dovetail_loaders_mistral.sentencepiece import BYTE, NORMAL, USER_DEFINED, read_model

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
FILLER = "<SPECIAL_{}>"
"""Text of a special token that a file counts and does not name."""
FIRST_SPECIALS = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
]
"""Special tokens of files that name none, which are older than version 11."""
SPACE = "\u2581"
"""SentencePiece's character for a space."""
MAX_BYTES = 128 * 2**20
"""The most bytes of a tokenizer's file. The largest published ones have 20 MB."""

logger = logging.getLogger(__name__)


def read_tokenizer(path: str) -> TokenizerParts:
    """Build the tokenizer of a file.

    Args:
        path: ``tekken.json``, or a SentencePiece model.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = Path(path)
    try:
        backend = _tekken(file) if file.name == TEKKEN else _sentencepiece(file)
        begin = backend.token_to_id("<s>")
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", begin)]
        )
    except (CheckpointError, KeyboardInterrupt):
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {file} ({error.strerror or error})", DOWNLOAD_AGAIN) from None
    except BaseException as error:  # the library checks its input, but has no error classes, and panics at some
        raise CheckpointError(
            f"{file} holds no tokenizer that can be used ({type(error).__name__}: {one_line(str(error), 240)})",
            DOWNLOAD_AGAIN,
        ) from error
    special = {name: text for name, text in SPECIAL_TOKENS.items() if backend.token_to_id(text) is not None}
    return TokenizerParts(backend, special, chat_template=_chat_template(file))


def _tekken(file: Path) -> tokenizers.Tokenizer:
    """Byte-level BPE. Special tokens come first, whatever of them the file names, and then tokens by rank."""
    data = json.loads(read_text(file, MAX_BYTES))
    config = data["config"]
    named = data.get("special_tokens")
    entries = sorted(named, key=lambda entry: entry["rank"]) if named is not None else []
    special = FIRST_SPECIALS if named is None else [entry["token_str"] for entry in entries]
    if named is not None and [entry["rank"] for entry in entries] != list(range(len(entries))):
        raise CheckpointError(f"{file} has special tokens whose ranks are not 0, 1, 2 and so on", DOWNLOAD_AGAIN)
    count, size = config["default_num_special_tokens"], config["default_vocab_size"]
    if not (type(count) is type(size) is int and len(special) <= count <= size <= count + len(data["vocab"])):
        raise CheckpointError(
            f"{file} says {quote_foreign(size)} tokens with {quote_foreign(count)} special ones, and holds {len(data['vocab'])} "
            f"with {len(special)} special ones",
            DOWNLOAD_AGAIN,
        )
    special = [*special, *(FILLER.format(i) for i in range(len(special), count))]
    letters = _byte_letters()
    tokens = [base64.b64decode(entry["token_bytes"]) for entry in data["vocab"][: size - count]]
    ranks = {token.decode("latin-1").translate(letters): rank for rank, token in enumerate(tokens)}
    vocabulary = {text: i for i, text in enumerate(special)} | {text: count + rank for text, rank in ranks.items()}
    if len(vocabulary) < size:
        raise CheckpointError(f"{file} has {size - len(vocabulary)} of its tokens twice", DOWNLOAD_AGAIN)
    merges = [pair for token in ranks for pair in _halves(token, ranks)]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(config["pattern"]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return backend


def _halves(token: str, ranks: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs of tokens that make up a token. Merges of all tokens in the order of ranks are those of tiktoken."""
    known = [
        (left, right) for at in range(1, len(token)) if (left := token[:at]) in ranks and (right := token[at:]) in ranks
    ]
    return known if len(known) < 2 else sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _byte_letters() -> dict[int, int]:
    """The character of each byte in byte-level BPE (GPT-2): printable ones stand for themselves, the others for those
    from 256 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {byte: byte if byte in printable else next(others) for byte in range(256)}


def _sentencepiece(file: Path) -> tokenizers.Tokenizer:
    """BPE with bytes for a character that is no token. A text is given a space to begin with, unless it has one."""
    model = read_model(file, MAX_BYTES)
    ids = {piece.text: i for i, piece in enumerate(model.pieces)}
    # Of equal scores the leftmost pair is merged first: sorting longer tokens before shorter ones gives the same.
    order = sorted(
        (piece for piece in model.pieces if piece.type in (NORMAL, BYTE)), key=lambda p: (-p.score, -len(p.text))
    )
    merges = [
        (left, right)
        for piece in order
        for at in range(len(piece.text) - 1, 0, -1)
        if (left := piece.text[:at]) in ids and (right := piece.text[at:]) in ids
    ]
    backend = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    scheme = "first" if model.spaced else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if model.spaced else steps)
    backend.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.type != USER_DEFINED)
            for piece in model.pieces
            if piece.type not in (NORMAL, BYTE)
        ]
    )
    return backend


def _chat_template(file: Path) -> str | None:
    """The template beside the tokenizer, or else the one that ``mistral-common`` makes for it, if it is installed."""
    beside = file.parent / "chat_template.jinja"
    if beside.is_file():
        return read_text(beside, MAX_BYTES)
    config = read_json(file.parent / "tokenizer_config.json", dict, CheckpointError).get("chat_template")
    if isinstance(config, str):
        return config
    if importlib.util.find_spec("mistral_common") is None:
        logger.warning(
            "%s has no chat template beside it; pip install 'dovetail-loaders-mistral[chat]' makes the one that belongs to "
            "it, and --chat-template gives another",
            file,
        )
        return None
    from mistral_common.integrations.chat_templates import chat_templates
    from mistral_common.tokens.tokenizers.base import TokenizerVersion

    try:
        if file.name == TEKKEN:
            return str(chat_templates.convert_tokenizer_to_chat_template(file))
        match = SENTENCEPIECE.fullmatch(file.name)
        return str(
            chat_templates.generate_chat_template(
                spm=True,
                tokenizer_version=TokenizerVersion(f"v{(match and match[1]) or 1}"),
                image_support=False,
                audio_support=False,
                thinking_support=False,
                default_system_prompt=None,
                plain_thinking_support=False,
                use_special_token_variables=True,
                model_settings_fields=None,
                reasoning_effort_values=None,
                reasoning_effort_default=None,
            )
        )
    except Exception as error:
        logger.warning("no chat template can be made for %s (%s)", file, one_line(str(error)))
        return None

"""Builds the tokenizer of a GGUF file.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#ggml. The file contains the vocabulary, the kind of
model and the name of a pre-tokenizer. How a tokenizer is built from these follows llama.cpp's ``src/llama-vocab.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from dovetail.api import CheckpointError, TokenizerParts, one_line, quote_foreign
from dovetail_loaders_gguf.charsmap import find_fault
from dovetail_loaders_gguf.cursor import DOWNLOAD_AGAIN
from dovetail_loaders_gguf.files import parts
from dovetail_loaders_gguf.header import Header, read_header
from dovetail_loaders_gguf.inspection import end_ids
from dovetail_loaders_gguf.pretokenizers import DEFAULT, PRETOKENIZERS, PreTokenizer
from dovetail_loaders_gguf.vocabulary import NAMED_IDS, Vocabulary

SPACE = "\u2581"
"""SentencePiece's character for a space."""

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Token types that are recognised in a text; those of the first two are special."""

SPACED_BPE_MODELS = {"gemma4": True, "granite-embed-multi-311m": True, "sarvam-moe": False}
"""Pre-tokenizers that do not split text into words, and whether a text always starts with ``bos_token``."""


def from_gguf(path: str) -> TokenizerParts:
    """Build the tokenizer of a GGUF file.

    Args:
        path: the file, any part of a split file, or a folder with one model.

    Raises:
        CheckpointError: the file is damaged, has no vocabulary, or names a kind of tokenizer that is not known.
    """
    vocabulary = Vocabulary(read_header(parts(path)[0]))
    if vocabulary.model not in BUILDERS:
        raise CheckpointError(
            f"{vocabulary.path} has a tokenizer of the kind {quote_foreign(vocabulary.model)}, wanted one of "
            f"{', '.join(BUILDERS)}",
            "name a Hugging Face tokenizer's folder with --tokenizer",
        )
    ends = end_ids(vocabulary.header.metadata)
    templates = _chat_templates(vocabulary.header)
    try:
        backend = BUILDERS[vocabulary.model](vocabulary)
        _add_tokens(backend, vocabulary, ends)
    except (CheckpointError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library checks its input, but has no error classes, and panics at some
        raise CheckpointError(
            f"the vocabulary of {vocabulary.path} cannot be used: {one_line(str(error), 240)}", DOWNLOAD_AGAIN
        ) from error
    special_tokens = {name: text for name in NAMED_IDS if (text := vocabulary.text(name)) is not None}
    return TokenizerParts(backend, special_tokens, ends, templates)


def _add_tokens(backend: tokenizers.Tokenizer, vocabulary: Vocabulary, ends: Sequence[int]) -> None:
    # Old converters marked end-of-turn tokens as normal, so the known ids are included too.
    special = {i for i, type_ in enumerate(vocabulary.types) if type_ in (UNKNOWN, CONTROL)} | {*ends}
    visible = {i for i, type_ in enumerate(vocabulary.types) if type_ == USER_DEFINED} - special
    # Phi-3's own files say so of its tokens; the format has no place for it.
    trims = "phi-3" in (name := str(vocabulary.header.metadata.get("general.name", "")).lower()) or "phi3" in name
    keeps = {"<unk>", "<s>", "<|endoftext|>"}
    backend.add_tokens(
        [
            AddedToken(token, special=i in special, normalized=False, rstrip=trims and token not in keeps)
            for i in sorted(special | visible)
            if i < len(vocabulary.tokens) and (token := vocabulary.tokens[i])
        ]
    )


def _add_surrounding_tokens(
    backend: tokenizers.Tokenizer, before: Sequence[str | None], after: Sequence[str | None]
) -> None:
    """Add special tokens around every text."""
    first = [token for token in before if token is not None]
    last = [token for token in after if token is not None]
    if first or last:
        backend.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", *last, "$B:1", *(f"{token}:1" for token in last)],
            special_tokens=[(token, _find_id(backend, token)) for token in dict.fromkeys([*first, *last])],
        )


def _find_id(backend: tokenizers.Tokenizer, token: str) -> int:
    found = backend.token_to_id(token)
    if found is None:
        raise LookupError(f"it lacks the token {quote_foreign(token)}, which stands around every text")
    return found


def _byte_level(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Byte-level BPE, as GPT-2 introduced it."""
    name = vocabulary.text_of("pre") or DEFAULT
    if name in SPACED_BPE_MODELS:
        return _spaced_bpe(vocabulary)
    if name not in PRETOKENIZERS:
        raise CheckpointError(
            f"{vocabulary.path} names the pre-tokenizer {quote_foreign(name)}, wanted one of {', '.join(sorted({*PRETOKENIZERS, *SPACED_BPE_MODELS}))}",
            "update dovetail-loaders-gguf, or name a Hugging Face tokenizer's folder with --tokenizer",
        )
    rules = PRETOKENIZERS[name]
    backend = tokenizers.Tokenizer(_bpe(vocabulary, ignore_merges=rules.whole_words))
    if rules.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _build_pre_tokenizer(rules)
    backend.decoder = decoders.ByteLevel()
    _add_bpe_surrounding_tokens(backend, vocabulary, rules.add_bos)
    return backend


def _add_bpe_surrounding_tokens(backend: tokenizers.Tokenizer, vocabulary: Vocabulary, add_bos: bool) -> None:
    begins, ends = vocabulary.flag("add_bos_token", add_bos), vocabulary.flag("add_eos_token", False)
    _add_surrounding_tokens(
        backend,
        [vocabulary.text("bos_token") if begins else None],
        [vocabulary.text("eos_token") if ends else None],
    )


def _build_pre_tokenizer(rules: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    cuts: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(cut), behavior="isolated") for cut in rules.cuts
    ]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _bpe(vocabulary: Vocabulary, **options: Any) -> models.BPE:
    merges = [_halves(merge) for merge in vocabulary.texts("merges")]
    try:
        return models.BPE(vocabulary.ids, merges, **options)
    except Exception:  # a merge of tokens that the vocabulary lacks; such merges can never apply
        ids = vocabulary.ids
        usable = [(a, b) for a, b in merges if a in ids and b in ids and a + b in ids]
    return models.BPE(vocabulary.ids, usable, **options)


def _halves(merge: str) -> tuple[str, str]:
    # The first character may itself be a space.
    at = merge.find(" ", 1)
    return (merge[:at], merge[at + 1 :]) if at > 0 else (merge, "")


def _spaced_bpe(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """BPE with merges over whole lines of text, spaces being characters of it, as Gemma 4 has it."""
    name = vocabulary.model if vocabulary.model != "gpt2" else vocabulary.text_of("pre") or ""
    backend = tokenizers.Tokenizer(
        _bpe(vocabulary, byte_fallback=True, fuse_unk=True, unk_token=vocabulary.text("unk_token"))
    )
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), behavior="isolated")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    # Early files deny the token that the model was trained to find before every text.
    begins = SPACED_BPE_MODELS[name] or vocabulary.flag("add_bos_token", False)
    _add_surrounding_tokens(backend, [vocabulary.text("bos_token") if begins else None], [])
    return backend


def _sentencepiece(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """SentencePiece BPE: two adjacent tokens can be merged if they make up a token, best score first."""
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocabulary.ids,
            scored_merges(vocabulary.tokens, vocabulary.scores()),
            unk_token=vocabulary.text("unk_token"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = vocabulary.flag("add_space_prefix", True)
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip: list[decoders.Decoder] = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    _add_bpe_surrounding_tokens(backend, vocabulary, add_bos=True)
    return backend


def scored_merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All merges of two tokens to one, better scores first.

    SentencePiece breaks ties by position: of equal merges the leftmost one is first, so a run of spaces, whose tokens
    have equal scores, grows from its start. Ranks cannot express this, but sorting longer tokens before shorter ones
    gives the same result.
    """
    known = {*tokens}
    order = sorted(range(min(len(tokens), len(scores))), key=lambda i: (-scores[i], -len(tokens[i])))
    return [
        (left, right)
        for token in (tokens[i] for i in order)
        for at in range(len(token) - 1, 0, -1)
        if (left := token[:at]) in known and (right := token[at:]) in known
    ]


def _wordpiece(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """BERT's WordPiece. The file marks tokens at the start of a word; BERT's own vocabulary marks the others."""
    written = vocabulary.tokens
    tokens = [
        token
        if token.startswith("[") and token.endswith("]") and len(token) > 2
        else token[1:]
        if token.startswith(SPACE) and len(token) > 1
        else f"##{token}"
        for token in written
    ]
    vocabulary.tokens = tokens
    vocabulary.ids = {token: i for i, token in enumerate(tokens)}
    unknown = vocabulary.text("unk_token") or "[UNK]"
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary.ids, unk_token=unknown))
    lower = vocabulary.flag("normalizer.lowercase", True)
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lower, strip_accents=vocabulary.flag("normalizer.strip_accents", lower)
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    first = vocabulary.text("bos_token") or vocabulary.text("cls_token") or "[CLS]"
    _add_surrounding_tokens(backend, [first], [vocabulary.text("sep_token") or "[SEP]"])
    return backend


def _unigram(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """SentencePiece's unigram model, as T5 and XLM-RoBERTa have it."""
    unknown = vocabulary.named_id("unk_token")
    backend = tokenizers.Tokenizer(
        models.Unigram([*zip(vocabulary.tokens, vocabulary.scores(), strict=True)], 2 if unknown is None else unknown)
    )
    steps: list[normalizers.Normalizer] = []
    if charsmap := vocabulary.octets("precompiled_charsmap"):
        if fault := find_fault(charsmap):
            raise ValueError(f"in its precompiled_charsmap, {fault}")
        steps.append(normalizers.Precompiled(charsmap))
    if vocabulary.flag("remove_extra_whitespaces", False):
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if vocabulary.flag("add_space_prefix", False) else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(SPACE, prepend_scheme=scheme)
    _add_surrounding_tokens(
        backend,
        [vocabulary.text("bos_token") if vocabulary.flag("add_bos_token", False) else None],
        [vocabulary.text("eos_token") if vocabulary.flag("add_eos_token", True) else None],
    )
    return backend


BUILDERS: dict[str, Callable[[Vocabulary], tokenizers.Tokenizer]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
    "gemma4": _spaced_bpe,
    "bert": _wordpiece,
    "t5": _unigram,
}
"""``tokenizer.ggml.model`` → how it is built."""


def _chat_templates(header: Header) -> str | dict[str, str] | None:
    default = header.text("tokenizer.chat_template")
    prefix = "tokenizer.chat_template."
    others = {key.removeprefix(prefix): header.text(key) or "" for key in header.metadata if key.startswith(prefix)}
    if not others:
        return default
    return {**others, "default": default} if default else others

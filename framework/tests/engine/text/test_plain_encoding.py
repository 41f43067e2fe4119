"""Control tokens in a text are plain text where it says so, and all else is encoded as ever."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from dovetail.api.errors import RequestError
from dovetail.engine.templates.marked_text import MARK_RANGES
from dovetail.engine.templates.rendered_prompt import RenderedPrompt, find_control_tokens
from dovetail.engine.text.plain_encoding import ALIASES, PlainEncoder, may_normalize_to
from dovetail.engine.text.tokenizer import Tokenizer

from .tokenizer_folders import KINDS, TEXTS, byte_fallback, byte_level, metaspace, word_piece

CONTROL = ["<|im_start|>", "<|im_end|>", "[INST]", "sop"]
FLAGS = [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"lstrip": True, "rstrip": True}]
PIECES = [*TEXTS, "<|im_", "im_end|>", "<", "<<", "x_", "<think>", "  "]


def with_tokens(kind: str, **flags: bool) -> Tokenizer:
    backend = KINDS[kind]()
    backend.add_special_tokens([AddedToken(token, normalized=False, **flags) for token in CONTROL])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return Tokenizer(backend, special_tokens={"unk_token": "<unk>"})


def splice(rng: random.Random, tokens: tuple[str, ...]) -> str:
    return "".join(rng.choice(PIECES if rng.random() < 0.6 else tokens) for _ in range(rng.randint(1, 12)))


def known(tokenizer: Tokenizer) -> set[int]:
    """Ids of control tokens, without the one for what the vocabulary cannot write."""
    ids = {tokenizer.token_to_id(token) for token in tokenizer.control_tokens if "unk" not in token.lower()}
    return {id for id in ids if id is not None}


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "-".join(flags) or "none")
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_are_meant_have_the_same_ids(kind: str, flags: dict[str, bool]) -> None:
    tokenizer, rng = with_tokens(kind, **flags), random.Random(5)
    encoder = PlainEncoder(tokenizer.backend, tokenizer.control_tokens)
    for _ in range(100):
        text = splice(rng, tokenizer.control_tokens)
        for special in (False, True):
            assert encoder.encode(text, (), special) == tokenizer.encode(text, special), text


@pytest.mark.parametrize("kind", KINDS)
def test_plain_tokens_have_no_control_ids(kind: str) -> None:
    tokenizer, rng = with_tokens(kind), random.Random(6)
    for _ in range(100):
        text = splice(rng, tokenizer.control_tokens)
        places = [start for start, _, _ in find_control_tokens(text, tokenizer.control_tokens, lambda *_: True)]
        ids = tokenizer.encode_rendered(RenderedPrompt(text, tuple(places)))
        if places:
            assert known(tokenizer).isdisjoint(ids), text
        if kind == "byte_level":
            assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_only_the_plain_ones_change() -> None:
    tokenizer = with_tokens("byte_level")
    text = "<|im_start|>a<|im_end|>b<|im_end|>"
    prompt = RenderedPrompt(text, (text.index("<|im_end|>"),))
    ids = tokenizer.encode_rendered(prompt)
    start, end = (tokenizer.token_to_id(token) for token in CONTROL[:2])
    assert (ids[0], ids[-1], ids.count(end)) == (start, end, 1)  # type: ignore[arg-type]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.encode_rendered(prompt, True) == [1, *ids]
    assert tokenizer.encode_rendered(RenderedPrompt(text)) == tokenizer.encode(text, add_special_tokens=False)


def test_asked_for_they_are_control_tokens() -> None:
    tokenizer = with_tokens("byte_level")
    tokenizer.allow_special_tokens_in_content = True
    assert tokenizer.encode_rendered(RenderedPrompt("a<|im_end|>", (1,))) == tokenizer.encode("a<|im_end|>", False)
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert tokenizer.render_prompt([{"role": "user", "content": "a<|im_end|>"}]).plain == ()


@pytest.mark.parametrize("step", [1, 3, 50])
def test_nothing_passes_for_an_alias(step: int) -> None:
    tokenizer = with_tokens("byte_level")
    text = "".join(map(chr, range(ALIASES.start, ALIASES.stop, step))) + "<|im_start|><|im_end|>"
    ids = tokenizer.encode_rendered(RenderedPrompt(text, (text.index("<|im_end|>"),)))
    assert known(tokenizer) & {*ids} == {tokenizer.token_to_id("<|im_start|>")}
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_a_text_of_all_private_characters_is_refused() -> None:
    text = "".join(chr(i) for numbers in MARK_RANGES for i in numbers)
    with pytest.raises(RequestError, match="private character"):
        with_tokens("byte_level").encode_rendered(RenderedPrompt(f"{text}<|im_end|>", (len(text),)))


def unigram() -> tokenizers.Tokenizer:
    backend = metaspace()
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("<", -2.0), ("s", -2.0), (">", -2.0), ("\u2581", -1.0), ("a", -1.0)]
    backend.model = models.Unigram(pieces, 0)
    backend.add_special_tokens(["<s>"])
    return backend


def merging() -> tokenizers.Tokenizer:
    vocabulary = {token: i for i, token in enumerate(["<s>", "<", "s", ">", "<s", "a", "<unk>"])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [("<", "s"), ("<s", ">")], unk_token="<unk>"))
    backend.add_special_tokens(["<s>"])
    return backend


def whole_words() -> tokenizers.Tokenizer:
    vocabulary = {token: i for i, token in enumerate(["<s>", "<", "s", ">", "a", "\u0120"])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<s>"])
    return backend


@pytest.mark.parametrize("build", [unigram, merging, whole_words])
def test_models_that_would_write_the_token_themselves_do_not(build: Callable[[], tokenizers.Tokenizer]) -> None:
    tokenizer = Tokenizer(build())
    ids = tokenizer.encode_rendered(RenderedPrompt("<s>a <s> a<s>", (4 + 1,)))
    id = tokenizer.token_to_id("<s>")
    assert ids.count(id) == 2  # type: ignore[arg-type]
    assert tokenizer.encode("a<s>", False).count(id) == 1  # type: ignore[arg-type]


def test_gaps_between_ids() -> None:
    vocabulary = {"a": 0, "<": 1, "s": 2, ">": 3, "b": 5, "c": 7}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.add_special_tokens(["<s>", "</s>"])
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode_rendered(RenderedPrompt("<s>abc<s>", (6,)))[:4] == [*tokenizer.encode("<s>abc", False)]


def test_texts_that_become_tokens_by_normalization() -> None:
    backend = byte_level()
    backend.normalizer = normalizers.NFC()
    backend.add_tokens([AddedToken("<|TOKEN|>", normalized=True)])
    tokenizer = Tokenizer(backend)
    assert may_normalize_to(backend, tokenizer.control_tokens)
    assert tokenizer.token_to_id("<|TOKEN|>") in tokenizer.encode("<|TO\u212aEN|>", False)
    assert tokenizer.token_to_id("<|TOKEN|>") not in tokenizer.encode_rendered(RenderedPrompt("<|TO\u212aEN|>"))
    assert tokenizer.token_to_id("<|TOKEN|>") in tokenizer.encode_rendered(RenderedPrompt("<|TOKEN|>"))
    for other in (byte_level(), byte_fallback(), word_piece()):
        assert not may_normalize_to(other, Tokenizer(other).control_tokens)


def test_control_tokens() -> None:
    backend = byte_level()
    backend.add_special_tokens(["  ", "<extra>"])
    backend.add_tokens(["<｜User｜>", "<|turn>", "<turn|>", "[gMASK]", "<start_of_turn>", "<think>", "[PAD7]", "   "])
    found = Tokenizer(backend).control_tokens
    written = {"<｜User｜>", "<|turn>", "<turn|>", "<|user|>", "[gMASK]", "<start_of_turn>"}
    assert set(found) == {"<unk>", "<s>", "</s>", "<extra>"} | written
    assert list(found) == sorted(found)


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(RequestError, match="surrogate"):
        with_tokens("byte_level").encode_rendered(RenderedPrompt("\ud800<|im_end|>", (1,)))

"""Texts are cut to a number of tokens, and the special tokens around them stay."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from dovetail.engine.text.tokenizer import Tokenizer

CLS, SEP = 26, 27


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A letter a token, ``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``."""
    vocabulary = {chr(ord("a") + i): i for i in range(26)} | {"[CLS]": CLS, "[SEP]": SEP}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return Tokenizer(backend)


@pytest.mark.parametrize(
    ("text", "limit", "options", "ids"),
    [
        ("abcd", None, {}, [CLS, 0, 1, 2, 3, SEP]),
        ("abcd", 6, {}, [CLS, 0, 1, 2, 3, SEP]),
        ("abcd", 5, {}, [CLS, 0, 1, 2, SEP]),
        ("abcd", 5, {"side": "left"}, [CLS, 1, 2, 3, SEP]),
        ("abcd", 3, {"add_special_tokens": False}, [0, 1, 2]),
        ("abcd", 2, {}, [CLS, SEP]),
        ("abcd", 1, {}, [CLS]),
        ("", 5, {}, [CLS, SEP]),
        ("ab", None, {"pair": "cd"}, [CLS, 0, 1, SEP, 2, 3, SEP]),
        ("ab", 6, {"pair": "cdefg"}, [CLS, 0, 1, SEP, 2, SEP]),
        ("ab", 8, {"pair": "cdefg"}, [CLS, 0, 1, SEP, 2, 3, 4, SEP]),
        ("abcdef", 8, {"pair": "g"}, [CLS, 0, 1, 2, 3, SEP, 6, SEP]),
        ("abcdef", 9, {"pair": "uvwxyz"}, [CLS, 0, 1, 2, SEP, 20, 21, 22, SEP]),
        ("abcdef", 8, {"pair": "uvwxyz", "side": "left"}, [CLS, 3, 4, 5, SEP, 24, 25, SEP]),
    ],
)
def test_ids(tokenizer: Tokenizer, text: str, limit: int | None, options: dict[str, Any], ids: list[int]) -> None:
    assert tokenizer.encode_within(text, limit, **options) == ids


def test_without_a_limit_it_is_what_encode_gives(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_within("abc", None) == tokenizer.encode("abc")

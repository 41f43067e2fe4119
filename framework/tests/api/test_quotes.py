"""What files and other programs say, quoted in messages."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.api import quote_foreign, shorten_foreign

DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("llama", "'llama'"),
        ("it's", '"it\'s"'),
        ("two\nlines\x1b]0;title\x07", "'two\\nlines\\x1b]0;title\\x07'"),
        ("\u202eright to left", "'\\u202eright to left'"),
        ("half \ud800", "'half \\ud800'"),
        (b"GG\x00F", "b'GG\\x00F'"),
        (None, "None"),
        (float("nan"), "nan"),
        ([1, "a\n"], "[1, 'a\\n']"),
        ({"a": None}, "{'a': None}"),
    ],
)
def test_values_are_quoted_as_python_writes_them(value: object, quoted: str) -> None:
    assert quote_foreign(value) == quoted


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        "\x00" * 10**6,
        b"x" * 10**6,
        DEEP,
        ["y" * 10**6] * 10**5,
        {str(i): i for i in range(10**5)},
        10**9999,
    ],
    ids=["text", "controls", "bytes", "deep", "list", "object", "number"],
)
def test_what_is_absurdly_long_is_cut(value: object) -> None:
    quoted = quote_foreign(value, limit=40)
    assert len(quoted) <= 42
    assert quoted.isprintable()


def test_a_quote_that_was_cut_says_so() -> None:
    assert quote_foreign("abcdefgh", limit=5) == "'abc…'"
    assert quote_foreign("abcde", limit=5) == "'abcde'"
    assert shorten_foreign("abcdefgh", limit=5) == "abcd…"


def test_a_message_of_a_library_becomes_one_line() -> None:
    assert shorten_foreign("no such  token\n  at \x1b[31mline 3\r\n") == "no such token at \\x1b[31mline 3"
    assert len(shorten_foreign("word\n" * 10**6, limit=100)) <= 100

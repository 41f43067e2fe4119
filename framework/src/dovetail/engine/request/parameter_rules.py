"""Rules for the values of sampling parameters, one for each. A rule is only applied to values that are not the default."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

from dovetail.api.errors import RequestError
from dovetail.engine.request.outputs import RequestOutputKind

MAX_SEED = 2**63 - 1
MAX_TOP_K = 2**31 - 1
MAX_BIAS = 100
MAX_COUNT = 2**31 - 1
POSITIVE_INTEGER = f"a whole number, at least 1 and at most {MAX_COUNT}"
WHOLE_VOCABULARY = -1
"""The whole vocabulary, as a number of logprobs."""


class Rule(NamedTuple):
    """The rule of one parameter.

    Attributes:
        read: checks and converts a value. It raises ValueError, TypeError or OverflowError for an invalid one.
        expected: the valid values, as text.
    """

    read: Callable[[Any], Any]
    expected: str


_SHORT = reprlib.Repr()
"""Writes out the beginning alone: all of it may be megabytes."""
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxlong = 3, 20, 10, 200, 80


def invalid_value(name: str, value: Any, expected: str) -> RequestError:
    shown = _SHORT.repr(value)
    if len(shown) > 200:
        shown = f"{shown[:200]}…"
    return RequestError(f"{name} is {shown}, wanted {expected}", param=name)


def _require(fits: bool) -> None:
    if not fits:
        raise ValueError


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and value is not True and value is not False


def _integer_between(low: int, high: int, *also: Any) -> Callable[[Any], Any]:
    """A whole number in a range, or one of ``also``. A boolean is not a number."""

    def read(value: Any) -> Any:
        if value is None:
            _require(None in also)
        else:
            _require(_is_integer(value) and (low <= value <= high or value in also))
        return value

    return read


def _number_between(low: float, high: float, *, above_low: bool = False) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        _require(isinstance(value, float) or _is_integer(value))
        # NaN is in no range.
        _require((low < value if above_low else low <= value) and value <= high)
        return value

    return read


read_bias = _number_between(-MAX_BIAS, MAX_BIAS)


def _zero_or_one(value: Any) -> Any:
    _require(not isinstance(value, bool) and value in (0, 1))
    return value


def _boolean(value: Any) -> bool:
    _require(value is True or value is False)
    return bool(value)


def _text_list(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    found = _list(value)
    _require(all(isinstance(text, str) for text in found))
    return [text for text in found if text]  # an empty text is what clients send for none


def _top_k(value: Any) -> int:
    # No vocabulary is as large as the greatest number that is kept.
    _require(_is_integer(value) and value >= -1)
    return min(int(value), MAX_TOP_K)


def _seed(value: Any) -> int | None:
    # As in other engines, -1 is any seed.
    return None if value == -1 and _is_integer(value) else _integer_between(-MAX_SEED - 1, MAX_SEED, None)(value)


def _max_tokens(value: Any) -> int | None:
    # As in other engines, -1 is no limit.
    return None if value == -1 and _is_integer(value) else _integer_between(1, MAX_COUNT, None)(value)


def _token_id(value: Any) -> int:
    _require(_is_integer(value) and 0 <= value <= MAX_COUNT)
    return int(value)


def _token_ids(value: Any) -> list[int]:
    found = _list(value)
    # They may be as many as the vocabulary, and this is ten times as fast as a loop.
    if set(map(type, found)) == {int}:
        _require(min(found) >= 0 and max(found) <= MAX_COUNT)
        return found
    return [_token_id(token) for token in found]


def _list(value: Any) -> list[Any]:
    _require(value is None or isinstance(value, (list, tuple)))
    return list(value or ())


def _optional_token_ids(value: Any) -> list[int] | None:
    if value is None:
        return None
    _require(bool(value))
    return _token_ids(value)


def _biases(value: Any) -> dict[int, float] | None:
    """Keys may be strings, because those of a JSON object are."""
    if value is None:
        return None
    _require(isinstance(value, dict))
    found: dict[int, float] = {}
    for key, bias in value.items():
        token = _token_id(int(key) if isinstance(key, str) else key)
        _require(token not in found)
        found[token] = float(read_bias(bias))
    return found or None


def _logits_processors(value: Any) -> list[dict[str, Any]]:
    """Each as its name and its arguments, whichever way it is written."""
    return [_logits_processor(entry) for entry in _list([value] if isinstance(value, (str, dict)) else value)]


def _logits_processor(entry: Any) -> dict[str, Any]:
    if isinstance(entry, str):
        entry = {"name": entry}
    _require(isinstance(entry, dict) and entry.keys() <= {"name", "qualname", "args", "kwargs"})
    name = entry.get("name") or entry.get("qualname")
    _require(isinstance(name, str) and (entry.get("name") is None or entry.get("qualname") is None))
    args: dict[str, Any] = {}
    for given in (entry.get("args") or {}, entry.get("kwargs") or {}):
        _require(isinstance(given, dict) and all(isinstance(key, str) for key in given))
        args |= given
    return {"name": name, "args": args}


LOGPROBS_VALUES = "a whole number from 0 on, or -1 for the whole vocabulary"
RULES: dict[str, Rule] = {
    "n": Rule(_integer_between(1, MAX_COUNT), POSITIVE_INTEGER),
    "best_of": Rule(_integer_between(1, MAX_COUNT, None), POSITIVE_INTEGER),
    "temperature": Rule(_number_between(0, 100), "a number between 0 and 100"),
    "top_k": Rule(_top_k, "a whole number, or -1 or 0 for all tokens"),
    "top_p": Rule(_number_between(0, 1, above_low=True), "a number in (0, 1]"),
    "min_p": Rule(_number_between(0, 1), "a number in [0, 1]"),
    "presence_penalty": Rule(_number_between(-2, 2), "a number between -2 and 2"),
    "frequency_penalty": Rule(_number_between(-2, 2), "a number between -2 and 2"),
    "repetition_penalty": Rule(_number_between(0, 100, above_low=True), "a number in (0, 100]"),
    "seed": Rule(_seed, "a whole number of 64 bits, or -1 for any"),
    "stop": Rule(_text_list, "a text, or a list of them"),
    "stop_token_ids": Rule(_token_ids, "a list of token ids"),
    "include_stop_str_in_output": Rule(_boolean, "true or false"),
    "ignore_eos": Rule(_boolean, "true or false"),
    "max_tokens": Rule(_max_tokens, f"{POSITIVE_INTEGER}, or -1 for no limit"),
    "min_tokens": Rule(_integer_between(0, MAX_COUNT), f"a whole number, 0 or more, at most {MAX_COUNT}"),
    "skip_special_tokens": Rule(_boolean, "true or false"),
    "logit_bias": Rule(_biases, f"an object of token ids and numbers between -{MAX_BIAS} and {MAX_BIAS}"),
    "bad_words": Rule(_text_list, "a text, or a list of them"),
    "allowed_token_ids": Rule(_optional_token_ids, "a non-empty list of token ids"),
    "logprobs": Rule(_integer_between(WHOLE_VOCABULARY, MAX_COUNT, None), LOGPROBS_VALUES),
    "prompt_logprobs": Rule(_integer_between(WHOLE_VOCABULARY, MAX_COUNT, None), LOGPROBS_VALUES),
    "truncate_prompt_tokens": Rule(
        _integer_between(1, MAX_COUNT, None, -1),
        "a whole number, at least 1, or -1 for as many tokens as the context holds",
    ),
    "shown_special_tokens": Rule(_token_ids, "a list of token ids"),
    "spaces_between_special_tokens": Rule(_boolean, "true or false"),
    "logits_processors": Rule(
        _logits_processors,
        'a list of names of logits processors, or of objects like {"name": …, "args": {…}} with arguments by name',
    ),
    "detokenize": Rule(_boolean, "true or false"),
    "output_kind": Rule(RequestOutputKind, "one of RequestOutputKind: CUMULATIVE, DELTA or FINAL_ONLY"),
}
BEAM_RULES: dict[str, Rule] = {
    "beam_width": Rule(_integer_between(1, MAX_COUNT), POSITIVE_INTEGER),
    "max_tokens": Rule(_integer_between(1, MAX_COUNT), POSITIVE_INTEGER),
    "ignore_eos": Rule(_boolean, "true or false"),
    "temperature": Rule(_zero_or_one, "0 or 1: beam search follows the model's own distribution"),
    "length_penalty": Rule(_number_between(-10, 10), "a number between -10 and 10"),
}
LIST_PARAMS = ("stop", "stop_token_ids", "bad_words", "shown_special_tokens", "logits_processors")
"""Parameters that are lists, empty by default."""


def check_params(params: Any, defaults: dict[str, Any]) -> None:
    """Check every parameter by its rule, and store the converted value.

    Args:
        defaults: of the parameters that are not lists. Most values of most requests are the default object itself, so a
            comparison by identity is enough and fast.

    Raises:
        RequestError: a value is not valid; names the parameter.
    """
    for name, default in defaults.items():
        value = getattr(params, name)
        if value is not default:
            check(params, name, value, *RULES[name])
    for name in LIST_PARAMS:
        value = getattr(params, name)
        if value.__class__ is not list or value:
            check(params, name, value, *RULES[name])


def check(params: Any, name: str, value: Any, read: Callable[[Any], Any], expected: str) -> None:
    """Check one parameter, and store the converted value.

    Raises:
        RequestError: the value is not valid.
    """
    try:
        kept = read(value)
    except (ValueError, TypeError, OverflowError):
        raise invalid_value(name, value, expected) from None
    setattr(params, name, kept)

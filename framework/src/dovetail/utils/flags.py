"""Flags from the fields of a pydantic model, so that options, help and documentation are one list."""

from __future__ import annotations

import argparse
import types
from collections.abc import Collection
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dovetail.api.errors import UsageError
from dovetail.kernel.options import parse_byte_count, parse_token_count
from dovetail.utils.arguments import json_object, media_limits

M = TypeVar("M", bound=BaseModel)

HUMAN = ("max_model_len", "max_num_batched_tokens", "max_num_seqs")
"""Fields that accept numbers such as 32k."""
SHORT = {"quantization": "-q"}
MULTI_VALUE_FLAGS = ("served_model_name", "lora_modules", "logits_processors", "allowed_media_domains")
"""Flags that take several values at once, as users of other servers type them. Other lists repeat their flag: one that took several would swallow
the model's name behind it."""


def human_int(text: str) -> int | None:
    """A number of tokens; see :func:`~dovetail.kernel.options.parse_token_count`."""
    try:
        count: int | None = parse_token_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return count


def human_bytes(text: str) -> int:
    """A number of bytes; see :func:`~dovetail.kernel.options.parse_byte_count`."""
    try:
        count: int = parse_byte_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return count


def add_flags(
    parser: argparse._ActionsContainer,
    model: type[BaseModel],
    title: str,
    skip: Collection[str] = (),
    defaults: Collection[str] = (),
    short: bool = True,
    hidden: bool = False,
) -> None:
    """One flag for each field of ``model`` that is not skipped.

    Args:
        parser: a parser, or a group of one, which takes the flags as its own.
        title: of the flags' group in the help, where a parser was given.
        short: with the short spellings that some flags have.
        hidden: whether the help leaves them out.
        defaults: fields whose default is in the parsed namespace; others are missing from it unless given.
    """
    group = parser.add_argument_group(title) if isinstance(parser, argparse.ArgumentParser) else parser
    for name, field in model.model_fields.items():
        if name not in skip:
            names = [n for n in (SHORT.get(name) if short else None, f"--{name.replace('_', '-')}") if n]
            default = field.get_default(call_default_factory=True) if name in defaults else argparse.SUPPRESS
            group.add_argument(
                *names,
                dest=name,
                default=default,
                help=argparse.SUPPRESS if hidden else _help(field),
                **_action(name, field),
            )


def _help(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "" if default in (None, [], {}, "") or isinstance(default, bool) else f" (default: {default})"
    return ((field.description or "") + shown).replace("%", "%%")


def _action(name: str, field: FieldInfo) -> dict[str, Any]:
    options = [a for a in _alternatives(field.annotation) if a is not type(None)]
    kind = options[0]
    if name in HUMAN:
        return {"type": human_int, "metavar": "TOKENS" if name == "max_model_len" else "N"}
    if name == "kv_cache_memory_bytes":
        return {"type": human_bytes, "metavar": "BYTES"}
    if name == "limit_mm_per_prompt":
        return {"type": media_limits, "metavar": "image=N"}
    if name == "max_image_bytes":
        return {"type": human_bytes, "metavar": "BYTES"}
    if {str, bool} <= set(options):
        return {"nargs": "?", "const": True, "metavar": name.upper()}
    if get_origin(kind) is dict or kind is dict:
        return {"type": json_object, "metavar": "JSON"}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is list:
        several = {"nargs": "+", "action": "extend"} if name in MULTI_VALUE_FLAGS else {"action": "append"}
        return {**several, "type": get_args(kind)[0], "metavar": name.upper()}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    return {"type": kind, "metavar": {int: "N", float: "X"}.get(kind, name.upper())}


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def read_flags(model: type[M], values: argparse.Namespace, **extra: Any) -> M:
    """Build the model from parsed flags.

    Raises:
        UsageError: a value is out of its range; names the flag.
    """
    given = {k: v for k, v in vars(values).items() if k in model.model_fields}
    try:
        return model(**{**given, **extra})
    except ValidationError as error:
        faults = "; ".join(
            f"--{str(e['loc'][0]).replace('_', '-')} is {e['input']!r}: {e['msg']}" for e in error.errors()
        )
        raise UsageError(faults, "see --help") from None

"""Validates the configurations of models with their own classes, and tells what is wrong in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from dovetail.api.config import ModelConfig
from dovetail.api.errors import ConfigError
from dovetail.api.text import quote_foreign
from dovetail.kernel.blame import Blamed, blame, check_class, wrong_answer
from dovetail.kernel.waiting import wait_for

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=ModelConfig)
UNION_MEMBER = re.compile(r"int|float|str|bool|none|bytes|constrained-\w+|\w+\[.*\]|\w+\(.*\)")
"""How pydantic names the members of a union, at the end of an error's place."""


def validate_config(config_class: type[M], config: dict[str, Any], file: str, part: Blamed | None = None) -> M:
    """Validate a configuration.

    Args:
        part: the model whose class it is; None if what it raises besides is the caller's to see.

    Raises:
        ConfigError: names every key at fault, and the file.
        PluginError: the class is none of a configuration, or raises something else.
    """
    if part is None:
        return _validate(config_class, config, file)
    check_class(part, getattr(config_class, "__name__", "its config"), config_class, ModelConfig)
    with (
        blame(part, f"to read {file or 'the configuration'} with {config_class.__name__}"),
        wait_for(part, config_class.__name__),
    ):
        found = _validate(config_class, config, file)
    if not isinstance(found, config_class):
        raise wrong_answer(part, f"{config_class.__name__}.model_validate()", found, f"a {config_class.__name__}")
    return found


def _validate(config_class: type[M], config: dict[str, Any], file: str) -> M:
    try:
        return config_class.model_validate(config)
    except ValidationError as error:
        faults = describe_validation_errors(error.errors())
    raise ConfigError(
        f"{config_class.__name__} cannot be read from {file or 'the configuration'}: {faults}",
        "correct the file, or override keys with --hf-overrides",
    )


def describe_validation_errors(errors: Sequence[ErrorDetails]) -> str:
    """Describe what is wrong with a configuration. What the members of a union say of one value is one sentence."""
    told: dict[Any, list[ErrorDetails]] = {}
    for place, error in enumerate(errors):
        *field, last = error["loc"] or ("",)
        member = bool(field) and isinstance(last, str) and UNION_MEMBER.fullmatch(last) is not None
        told.setdefault(tuple(field) if member else place, []).append(error)
    sentences = []
    for first, *others in told.values():
        if others:
            wanted = [other["msg"].removeprefix("Input should be ") for other in others]
            joined = ", or ".join([first["msg"], *dict.fromkeys(wanted)])
            first = {**first, "loc": first["loc"][:-1], "msg": joined}
        sentences.append(describe_validation_error(first))
    return "; ".join(sentences)


def describe_validation_error(error: ErrorDetails) -> str:
    """Describe one of pydantic's errors, for a list of errors."""
    text = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # about several keys, which the text names
        return text
    key = ".".join(map(str, error["loc"]))
    return (
        f"{key}: is missing"
        if error["type"] == "missing"
        else f"{key}: {text} (found {quote_foreign(error['input'], 80)})"
    )

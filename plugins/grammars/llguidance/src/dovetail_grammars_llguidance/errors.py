"""Errors for sources that cannot be used."""

from __future__ import annotations

import json
from typing import Any

from dovetail.api import GrammarSource, RequestError

PARAM = "structured_outputs"
MAX_BYTES = {"json": 1 << 20, "choice": 1 << 20, "structural_tag": 1 << 20, "regex": 1 << 18, "grammar": 1 << 18}
"""Maximum size of a text by kind. Rules need more time and stack per byte than schemas."""


class FormatError(Exception):
    """Why a part of a source cannot be used."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


def grammar_error(source: GrammarSource, reason: str, hint: str = "") -> RequestError:
    names = {"json": "JSON schema", "json_object": "form", "structural_tag": "structural tag"}
    return RequestError(f"the {names.get(source.kind, source.kind)} cannot be used: {reason}", hint, param=PARAM)


def read_json(source: GrammarSource) -> Any:
    try:
        return json.loads(source.text)
    except RecursionError:
        raise grammar_error(source, "it nests too deep", "make it flatter") from None
    except ValueError as error:
        raise grammar_error(source, f"it is not JSON ({error})") from None

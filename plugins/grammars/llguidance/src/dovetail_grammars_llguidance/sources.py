"""From what a request gives to the grammars that llguidance reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from dovetail.api import GrammarSource, RequestError
from dovetail_grammars_llguidance.messages import one_line

PARAM = "structured_outputs"
MAX_BYTES = {"json": 1 << 20, "choice": 1 << 20, "structural_tag": 1 << 20, "regex": 1 << 18, "grammar": 1 << 18}
"""Size of a text by kind. Rules take more time and stack a byte than schemas do."""

IsSpecial = Callable[[str], bool]
"""Whether a text is one special token, which spells out to nothing."""


def to_grammar(source: GrammarSource, is_special: IsSpecial = lambda text: False) -> str:
    """The grammar in llguidance's form, not compiled yet.

    Args:
        is_special: of the model's tokenizer. Structural tags may begin and end with such tokens.

    Raises:
        RequestError: the text is too large, or is not what its kind says.
    """
    size = len(source.text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES.get(source.kind, size):
        raise refused(source, f"it has {size:,} bytes, more than {MAX_BYTES[source.kind]:,}", "send a smaller one")
    try:
        return _translated(source, is_special)
    except UnicodeEncodeError:
        raise refused(source, "it holds half of a surrogate pair, which is no character") from None


def _translated(source: GrammarSource, is_special: IsSpecial) -> str:
    if source.kind == "json":
        return _schema(source, source.text)
    if source.kind == "json_object":
        return _schema(source, '{"type": "object"}')
    if source.kind == "regex":
        return str(LLMatcher.grammar_from_regex(source.text))
    if source.kind == "choice":
        # One lexeme, which an automaton matches: as rules, more than 2,000 texts would be past the parser's limit.
        return str(LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {_choices(source)}"))
    if source.kind == "grammar":
        return str(LLMatcher.grammar_from_lark(_lark(source)))
    return str(LLMatcher.grammar_from_lark(_tags(source, is_special)))


def refused(source: GrammarSource, reason: str, hint: str = "") -> RequestError:
    names = {"json": "JSON schema", "json_object": "form", "structural_tag": "structural tag"}
    return RequestError(f"the {names.get(source.kind, source.kind)} cannot be used: {reason}", hint, param=PARAM)


def read_json(source: GrammarSource) -> Any:
    try:
        return json.loads(source.text)
    except (ValueError, RecursionError) as error:
        raise refused(source, f"it is not JSON ({error})") from None


def _schema(source: GrammarSource, text: str) -> str:
    if text.strip() == "true":  # a schema too: anything
        text = "{}"
    if not text.lstrip().startswith("{"):
        raise refused(source, f"wanted an object, found {text[:40]!r}")
    try:
        # What a schema's own options may not do is ignore keywords: the output would not be what the schema says.
        return str(LLMatcher.grammar_from_json_schema(text, overrides={"lenient": False}))
    except ValueError as error:
        raise refused(source, one_line(str(error))) from None


def _choices(source: GrammarSource) -> str:
    choices = read_json(source)
    if not isinstance(choices, list) or not choices or not all(isinstance(text, str) for text in choices):
        raise refused(source, f"wanted a list of one or more texts, found {source.text[:80]}")
    return " | ".join(literal(text) for text in dict.fromkeys(choices))


def literal(text: str) -> str:
    """A text as a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def _lark(source: GrammarSource) -> str:
    """Lark as it is; GBNF, which is told by its ``::=``, translated."""
    if "::=" not in source.text:
        return source.text
    try:
        return gbnf_to_lark(source.text)
    except Exception as error:  # its errors have no class in common
        raise refused(source, one_line(f"as GBNF: {error}"), "write GBNF or Lark") from None


def _tags(source: GrammarSource, is_special: IsSpecial) -> str:
    """Any text, in which what follows a trigger is one of the tags.

    The text is ``{"type": "structural_tag", "structures": [{"begin", "schema", "end"}], "triggers": [...]}``; a tag's begin starts with a trigger.
    """
    value = read_json(source)
    if not (isinstance(value, dict) and isinstance(value.get("structures"), list) and value["structures"]):
        raise refused(
            source,
            "wanted an object with structures and triggers",
            'for example {"structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}], "triggers": ["<f"]}',
        )
    triggers = value.get("triggers")
    if not isinstance(triggers, list) or not all(isinstance(t, str) and t for t in triggers):
        raise refused(source, "triggers is no list of texts")
    lines = []
    for number, tag in enumerate(value["structures"]):
        begin, end, schema = (tag.get(k) for k in ("begin", "end", "schema")) if isinstance(tag, dict) else (None,) * 3
        if not (isinstance(begin, str) and isinstance(end, str) and isinstance(schema, dict | bool)):
            raise refused(source, f"structure {number} needs begin and end, which are texts, and schema, an object")
        # The longest, so that the rest of the text before the tag is free of the shorter ones that it contains.
        trigger = max((t for t in triggers if begin.startswith(t)), key=len, default=None)
        if trigger is None:
            raise refused(
                source, f"structure {number} begins with {begin[:40]!r}, which begins with none of the triggers"
            )
        body = f"{_piece(begin[len(trigger) :], is_special)} %json {json.dumps(schema)} {_piece(end, is_special)}"
        if is_special(trigger):
            lines.append(f"tag_{number}: TEXT {trigger} {body}")
        else:
            lines.append(f"head_{number}[lazy]: TEXT {literal(trigger)}\ntag_{number}: head_{number} {body}")
    options = " | ".join(f"tag_{number}" for number in range(len(lines)))
    return "\n".join([f"start: ({options})* rest", "rest: TEXT", r"TEXT: /(.|\n)*/", *lines])


def _piece(text: str, is_special: IsSpecial) -> str:
    """A text within a rule, or nothing, which a rule cannot spell."""
    if not text:
        return ""
    return text if is_special(text) else literal(text)

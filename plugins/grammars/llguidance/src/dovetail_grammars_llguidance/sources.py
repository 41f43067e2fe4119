"""Converts the source in a request to a grammar that llguidance reads."""

from __future__ import annotations

from llguidance import LLMatcher

from dovetail.api import GrammarSource
from dovetail_grammars_llguidance.errors import MAX_BYTES, FormatError, grammar_error, read_json
from dovetail_grammars_llguidance.formats import read
from dovetail_grammars_llguidance.lark import Translation, literal, tags_grammar, to_lark
from dovetail_grammars_llguidance.nodes import Piece, Split, to_node
from dovetail_grammars_llguidance.panics import panics_as_errors
from dovetail_grammars_llguidance.schemas import Prepared, prepare_schema


def to_grammar(source: GrammarSource, split: Split = lambda text: [Piece(text)]) -> Translation:
    """The grammar in llguidance's notation, not compiled yet.

    Args:
        split: finds the special tokens of the model's tokenizer in the texts of structural tags.

    Raises:
        RequestError: the text is too large, or is not valid for its kind.
    """
    size = len(source.text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES.get(source.kind, size):
        raise grammar_error(
            source, f"it has {size:,} bytes, more than {MAX_BYTES[source.kind]:,}", "send a smaller one"
        )
    try:
        with panics_as_errors():
            return _translate(source, split)
    except FormatError as error:
        raise grammar_error(source, str(error), error.hint) from None
    except UnicodeEncodeError:
        raise grammar_error(source, "it holds half of a surrogate pair, which is no character") from None


def _translate(source: GrammarSource, split: Split) -> Translation:
    if source.kind == "json":
        return _schema(source)
    if source.kind == "json_object":
        return _json(prepare_schema({"type": "object"}))
    if source.kind == "regex":
        return Translation(LLMatcher.grammar_from_regex(source.text))
    if source.kind == "choice":
        # One lexeme, which an automaton matches: as rules, more than 2,000 texts would be past the parser's limit.
        return Translation(LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {_choices(source)}"))
    if source.kind == "grammar":
        lark = to_lark(source.text)
        return Translation(LLMatcher.grammar_from_lark(lark.grammar), lark.notices)
    return _tags(source, split)


def _schema(source: GrammarSource) -> Translation:
    if source.text.lstrip().startswith("["):
        raise grammar_error(source, f"wanted an object, found {source.text[:40]!r}")
    return _json(prepare_schema(read_json(source)))


def _json(schema: Prepared) -> Translation:
    schema.text.encode()  # finds what is no character
    return Translation(LLMatcher.grammar_from_json_schema(schema.text), schema.notices)


def _choices(source: GrammarSource) -> str:
    choices = read_json(source)
    if not isinstance(choices, list) or not choices or not all(isinstance(text, str) for text in choices):
        raise grammar_error(source, f"wanted a list of one or more texts, found {source.text[:80]}")
    return " | ".join(literal(text) for text in dict.fromkeys(choices))


def _tags(source: GrammarSource, split: Split) -> Translation:
    try:
        tags = tags_grammar(to_node(read(source), split))
    except RecursionError:  # of a schema that could just be read
        raise grammar_error(source, "a schema in it nests too deep", "make it flatter") from None
    tags.grammar.encode()  # finds what is no character
    return tags

"""Checks that a grammar compiles, before a request is queued: without tokenizer and without torch."""

from __future__ import annotations

from llguidance import LLMatcher, LLParserLimits

from dovetail.api import GrammarSource
from dovetail_grammars_llguidance.deep_stack import run_on_deep_stack
from dovetail_grammars_llguidance.errors import PARAM, grammar_error
from dovetail_grammars_llguidance.messages import shorten_message
from dovetail_grammars_llguidance.sources import to_grammar

LIMIT_S = 5.0
ONE_OF = "oneOf is taken for anyOf, since more than one of its schemas may hold of a value"


MAX_LEXER_STATES = 1 << 15
"""Most states of a grammar's lexer, which all its sequences share. JSON without counted strings needs some hundreds; a
string with ``maxLength`` or a repetition needs one for each character.
"""


def limits() -> LLParserLimits:
    """Limits of parsers and lexers: llguidance's own, but for the states. Errors do not quote the grammar."""
    return LLParserLimits(verbose_errors=False, max_lexer_states=MAX_LEXER_STATES)


def validate_source(source: GrammarSource) -> list[str]:
    """Check that a source compiles.

    Returns:
        Restrictions of the source that the output may not follow.

    What depends on the model's tokenizer (special tokens that a Lark grammar names) is only checked by
    :meth:`.backend.Backend.compile`, and so is a source without any valid output.

    Raises:
        RequestError: says what is wrong, and where.
    """
    translation = to_grammar(source)
    failed, messages = run_on_deep_stack(
        lambda: LLMatcher.validate_grammar_with_warnings(translation.grammar, limits=limits()), LIMIT_S, PARAM
    )
    if failed:
        message = shorten_message(messages[0], source.kind)
        raise grammar_error(source, message, hint(message))
    if any("oneOf" in message for message in messages):
        return [*translation.notices, ONE_OF]
    return translation.notices


def hint(message: str) -> str:
    """What to do about an error, if there is something to do."""
    if "coerce_one_of" in message:
        return "write anyOf, or send the schema without strict"
    return ""

"""Whether a grammar compiles, asked before a request is queued: no tokenizer, no torch."""

from __future__ import annotations

from llguidance import LLMatcher, LLParserLimits

from dovetail.api import GrammarSource
from dovetail_grammars_llguidance.deep_stack import run_on_deep_stack
from dovetail_grammars_llguidance.errors import PARAM, grammar_error
from dovetail_grammars_llguidance.messages import shorten_message
from dovetail_grammars_llguidance.sources import to_grammar

LIMIT_S = 5.0


def limits() -> LLParserLimits:
    """What parsers and lexers may use: llguidance's own limits; its errors do not quote the grammar."""
    return LLParserLimits(verbose_errors=False)


def validate_source(source: GrammarSource) -> None:
    """Refuse what does not compile.

    What depends on the model's tokenizer (special tokens that a Lark grammar names) is only seen by :meth:`.backend.Backend.compile`, and so is a
    form that nothing has.

    Raises:
        RequestError: says what is wrong, and where.
    """
    grammar = to_grammar(source)
    message = run_on_deep_stack(lambda: LLMatcher.validate_grammar(grammar, limits=limits()), LIMIT_S, PARAM)
    if message and not message.startswith("WARNING"):
        raise grammar_error(source, shorten_message(message, source.kind), hint(message))


def hint(message: str) -> str:
    """What to do about an error, where there is something."""
    if "coerce_one_of" in message:
        return 'write anyOf, or put "x-guidance": {"coerce_one_of": true} into the schema, which takes every oneOf for an anyOf'
    if "Unimplemented keys" in message:
        return "leave these keywords out, and check what they say on the output"
    return ""

"""check_grammar: what passes, and what each wrong backend is told."""

import pytest

from dovetail.api import GrammarCard, GrammarSource
from dovetail.testing import GrammarSample, check_grammar


def card(target: str = "Choices", validate: str = "validate", **claims: object) -> GrammarCard:
    claims.setdefault("kinds", ("choice",))
    return GrammarCard(name="fake", target=f"kit_grammar:{target}", validate_source=f"kit_grammar:{validate}", **claims)


def test_a_right_backend_passes() -> None:
    check_grammar(card())
    check_grammar(card("Sized"))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (card(validate="validate_nothing"), "claims choice: choice '' is not refused"),
        (card(validate="validate_roughly"), "claims choice: choice '' raises JSONDecodeError"),
        (card(validate="validate_elsewhere"), "is refused with the parameter 'choice'"),
        (card("OneEnd"), "a mask has some of the end tokens, and not all"),
        (card("GoesOn"), "after its end, 'yes' goes on"),
        (card("Beyond"), "and the tokenizer ends at"),
        (card("Early"), "'' has not the form, but can be written"),
        (card("Short"), "'yes sir' has the form, but cannot be written"),
        (card("Shared"), "'yes sir' has the form, but cannot be written"),
        (card("Stuck"), "leads elsewhere"),
        (card("Weightless"), "num_bytes is 5 for a text and 5 for a thousand"),
        (card("Missing"), "making the backend"),
        (card(kinds=("choice", "regex")), "claims regex: RequestError: wanted a choice"),
        (card(kinds=("choice", "grammar")), "claims grammars in a notation of its own: give check_grammar one"),
    ],
)
def test_what_is_wrong_is_said(wrong: GrammarCard, told: str) -> None:
    with pytest.raises(AssertionError, match="grammar 'fake'") as failure:
        check_grammar(wrong)
    assert told in str(failure.value)


def test_a_grammar_of_the_backend_s_own_is_held_against_its_card() -> None:
    own = GrammarSample(GrammarSource("grammar", "x"), lambda text: True, good=("x",), bad=())
    check_grammar(card(), own)
    with pytest.raises(AssertionError, match="claims grammar: RequestError: wanted a choice"):
        check_grammar(card(kinds=("choice", "grammar")), own)

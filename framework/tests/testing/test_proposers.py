"""check_proposer: what passes, and what each wrong proposer is told."""

from typing import Any

import pytest

from dovetail.api import ProposerCard, ProposerContext
from dovetail.testing import check_proposer


def card(target: str = "Right", **claims: Any) -> ProposerCard:
    return ProposerCard(
        name="under-test", **{"target": f"kit_proposer:{target}", "config": "kit_proposer:Options", **claims}
    )


def test_a_right_proposer_passes() -> None:
    check_proposer(card())
    check_proposer(card(num_tokens=1), step=3)


def test_one_that_is_made_already_is_taken() -> None:
    from kit_proposer import Beyond, Options, Right

    context = ProposerContext(vocab_size=64, max_seqs=8, num_tokens=4)
    check_proposer(card("NoProposer"), Right(Options(), context))
    with pytest.raises(AssertionError, match="out of the vocabulary"):
        check_proposer(card(), Beyond(Options(), context))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (card("Beyond"), "token 64 is out of the vocabulary of 64"),
        (card("Eager"), "4 tokens guessed,"),
        (card("Silent"), "guesses"),
        (card("Fractional"), "0.5 was guessed, wanted a whole number"),
        (card("Meddling"), "a sequence's tokens were changed"),
        (card("Strict"), "forgetting a sequence that it never saw: KeyError"),
        (card("Remembering"), "IndexError"),
        (card("NoProposer"), "kit_proposer:NoProposer is no subclass of dovetail.api.Proposer"),
        (card("no_such_class"), "making it"),
        (card(config="kit_proposer:LooseOptions"), "takes an unknown option; let it forbid extra fields"),
        (card(config="kit_proposer:Right"), "is no subclass of pydantic.BaseModel"),
    ],
)
def test_what_is_wrong_is_said(wrong: ProposerCard, told: str) -> None:
    with pytest.raises(AssertionError, match="proposer 'under-test'") as failure:
        check_proposer(wrong)
    assert told in str(failure.value)


def test_options_that_it_refuses_are_cited() -> None:
    with pytest.raises(AssertionError, match=r"reading its options: UsageError.*step"):
        check_proposer(card(), step="x")

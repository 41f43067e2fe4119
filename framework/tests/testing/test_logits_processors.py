"""check_logits_processor: what passes, and what each wrong processor is told."""

from typing import Any

import pytest

from dovetail.api import LogitsProcessorCard
from dovetail.testing import check_logits_processor


def card(target: str = "Right", **claims: Any) -> LogitsProcessorCard:
    given = {"target": f"kit_logits:{target}", "config": "kit_logits:Arguments", **claims}
    return LogitsProcessorCard(name="under-test", **given)


def test_right_ones_pass() -> None:
    check_logits_processor(card(), {}, {"token": 5})
    check_logits_processor(card("Returning", config=None), {})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (card("Shared"), "a sequence gets other logits in a batch of"),
        (card("Narrow"), "63], wanted"),
        (card("Halved"), "logits in torch.float16, wanted torch.float32"),
        (card("Infinite"), "some logit is NaN or plus infinity"),
        (card("Meddling"), "a sequence's tokens were changed"),
        (card("Wordy"), "apply() gave str"),
        (card("Failing"), "KeyError"),
        (card("NoProcessor"), "kit_logits:NoProcessor is no subclass of dovetail.api.LogitsProcessor"),
        (card("no_such_class"), "making it"),
        (card(config="kit_logits:LooseArguments"), "takes an unknown argument; let it forbid extra fields"),
    ],
)
def test_what_is_wrong_is_said(wrong: LogitsProcessorCard, told: str) -> None:
    with pytest.raises(AssertionError, match="logits_processor 'under-test'") as failure:
        check_logits_processor(wrong, {}, {"token": 2})
    assert told in str(failure.value)


def test_arguments_that_it_refuses_are_cited() -> None:
    with pytest.raises(AssertionError, match=r"reading its arguments: RequestError.*token"):
        check_logits_processor(card(), {"token": "x"})
    with pytest.raises(AssertionError, match="give the arguments"):
        check_logits_processor(card())

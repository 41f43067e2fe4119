"""Outputs as a reader sees them."""

from __future__ import annotations

from dovetail import CompletionOutput, RequestOutput


def test_what_was_not_asked_for_is_not_shown() -> None:
    output = RequestOutput("7", "ab", [1, 2], [CompletionOutput(0, "c", [3], finish_reason="stop")], finished=True)
    assert repr(output) == (
        "RequestOutput(request_id='7', prompt='ab', prompt_token_ids=[1, 2], "
        "outputs=[CompletionOutput(index=0, text='c', token_ids=[3], finish_reason='stop')], finished=True)"
    )


def test_long_lists_are_cut() -> None:
    output = CompletionOutput(0, token_ids=list(range(500)), cumulative_logprob=-2.5, stop_reason="x")
    assert repr(output) == (
        "CompletionOutput(index=0, text='', token_ids=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … 500 in all], "
        "cumulative_logprob=-2.5, finish_reason=None, stop_reason='x')"
    )

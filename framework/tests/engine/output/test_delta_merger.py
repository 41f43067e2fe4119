"""``--stream-interval``."""

from __future__ import annotations

import pytest

from dovetail.engine.output.delta_merger import DeltaMerger
from dovetail.engine.request.outputs import Delta, Logprob


def feed(interval: int, *batches: list[Delta]) -> list[list[Delta]]:
    merger = DeltaMerger(interval)
    return [merger.add(batch) for batch in batches]


@pytest.mark.parametrize(("interval", "sizes"), [(1, [1] * 8), (3, [1, 3, 3, 1]), (100, [1, 7])])
def test_the_first_token_at_once_then_so_many_together_then_the_rest(interval: int, sizes: list[int]) -> None:
    deltas = [[Delta(0, str(i), [i], "length" if i == 7 else None)] for i in range(8)]
    made = [delta for batch in feed(interval, *deltas) for delta in batch]
    assert [len(delta.token_ids) for delta in made] == sizes
    assert "".join(delta.text for delta in made) == "01234567"
    assert [token for delta in made for token in delta.token_ids] == list(range(8))
    assert [delta.finish_reason for delta in made] == [None] * (len(sizes) - 1) + ["length"]


def test_choices_are_counted_apart_and_keep_what_belongs_to_their_tokens() -> None:
    def delta(index: int, token: int, reason: str | None = None) -> Delta:
        return Delta(index, "x", [token], reason, logprobs=[{token: Logprob(-1.0)}])  # type: ignore[arg-type]

    first, second, third = feed(
        3, [delta(0, 1), delta(1, 2)], [delta(0, 3), delta(1, 4)], [delta(0, 5), delta(1, 6, "stop")]
    )
    assert [(d.index, d.token_ids) for d in first] == [(0, [1]), (1, [2])]
    assert second == []
    (ended,) = third
    assert (ended.index, ended.token_ids, ended.finish_reason) == (1, [4, 6], "stop")
    assert ended.logprobs == [{4: Logprob(-1.0)}, {6: Logprob(-1.0)}]

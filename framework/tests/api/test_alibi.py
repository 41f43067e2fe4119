"""The slopes of ALiBi's heads."""

from __future__ import annotations

from typing import ClassVar

import pytest

from dovetail.api import DecoderConfig, alibi_slopes


def test_slopes_of_a_power_of_two_are_a_geometric_sequence() -> None:
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(16)[:4] == pytest.approx((0.70710678, 0.5, 0.35355339, 0.25))
    assert alibi_slopes(1) == (2.0**-8,)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (3, (2**-4, 2**-8, 2**-2)),
        (6, (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)),
        (12, (*(2**-i for i in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5)),
    ],
)
def test_slopes_of_other_numbers_are_from_the_powers_on_both_sides(heads: int, slopes: tuple[float, ...]) -> None:
    assert alibi_slopes(heads) == pytest.approx(slopes)


def test_the_last_exponent_can_be_chosen() -> None:
    assert alibi_slopes(4, max_bias=4.0) == (0.5, 0.25, 0.125, 0.0625)


class Biased(DecoderConfig):
    rotary: ClassVar[bool] = False

    def slopes(self) -> tuple[float, ...]:
        return alibi_slopes(self.num_attention_heads)


def test_a_decoder_with_slopes_announces_them() -> None:
    keys = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6}
    config = Biased.model_validate(
        {**keys, "num_hidden_layers": 2, "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
    )
    found = [requirement.features for requirement in config.attention_requirements()]
    assert found == [{"sliding", "alibi"}, {"alibi"}]

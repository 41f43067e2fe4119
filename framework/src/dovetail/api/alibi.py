"""ALiBi: attention that sees distances in place of positions (Press et al., 2022, "Train Short, Test Long: Attention with
Linear Biases Enables Input Length Extrapolation").
"""

from __future__ import annotations


def alibi_slopes(num_heads: int, max_bias: float = 8.0) -> tuple[float, ...]:
    """How much a head's score falls with each token of distance: a geometric sequence for a power of two of heads,
    ``2 ** (-max_bias * i / num_heads)`` for i from 1.

    For other numbers of heads, the paper's authors take those of the power of two below, and then every second one,
    beginning with the first, of the sequence for twice as many.

    Args:
        num_heads: of all ranks.
        max_bias: the exponent of the last one, 8 in the paper.
    """
    below = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-max_bias * i / below) for i in range(1, below + 1)]
    between = [2.0 ** (-max_bias * i / (2 * below)) for i in range(1, 2 * below, 2)]
    return (*slopes, *between[: num_heads - below])

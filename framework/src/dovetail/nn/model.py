"""The base of decoder models."""

from __future__ import annotations

from torch import Tensor, nn

from dovetail.nn.layers import Head
from dovetail.nn.step import Step


class CausalLM(nn.Module):
    """A decoder that maps a step's tokens to hidden states, and hidden states to logits.

    A subclass takes ``(config, ctx)``, builds its layers through ``ctx`` and sets :attr:`head`. It neither loads weights, nor asks for devices,
    nor knows of quantization or sharding.
    """

    head: Head

    def forward(self, step: Step) -> Tensor:
        """Hidden states after the last norm, ``[T, C]``."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """``[L, C]`` → ``[L, V]``."""
        out: Tensor = self.head(hidden)
        return out

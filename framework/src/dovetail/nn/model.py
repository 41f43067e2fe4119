"""The bases of models."""

from __future__ import annotations

from torch import Tensor, nn

from dovetail.nn.layers import Head
from dovetail.nn.step import Step


class PoolingModel(nn.Module):
    """A model that maps a step's tokens to hidden states, of which the engine makes one vector a prompt.

    A subclass takes ``(config, ctx)`` and builds its layers through ``ctx``. It neither loads weights, nor asks for devices, nor knows of
    quantization or sharding. Which hidden states stand for a prompt, and whether the vector is normalised, is the Plan's business
    (:attr:`dovetail.api.ModelCard.pooling` is the model's own say), and so are prompts that are computed in chunks. That is all that embeddings need.
    """

    def forward(self, step: Step) -> Tensor:
        """Hidden states after the last norm, ``[T, C]``."""
        raise NotImplementedError

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        """What the model's own head makes of vectors, not normalised, in the dtype of activations: ``[P, C]`` → ``[P, K]``.

        Only models whose card claims ``classify``, with K labels, or ``score``, with K = 1, have this. The engine makes probabilities of them.
        """
        raise NotImplementedError


class CausalLM(PoolingModel):
    """A decoder that also maps hidden states to logits. A subclass sets :attr:`head`; vectors can be had of it without more."""

    head: Head

    def logits(self, hidden: Tensor) -> Tensor:
        """``[L, C]`` → ``[L, V]``."""
        out: Tensor = self.head(hidden)
        return out

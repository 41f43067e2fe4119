"""Base classes of models."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dovetail.nn.layers import Head
from dovetail.nn.step import Step


class PoolingModel(nn.Module):
    """A model that maps a step's tokens to hidden states. The engine pools them to one vector for each prompt.

    A subclass takes ``(config, ctx)`` and builds its layers with ``ctx``. Its code does not load weights, and does not
    depend on devices, quantization or sharding. The Plan says which hidden states are pooled and whether the vector is
    normalised (:attr:`dovetail.api.ModelCard.pooling` is the model's default), and the engine handles prompts that are
    computed in chunks. Embeddings need nothing more.

    Attributes:
        image_elements: of a model that sees: the most elements of activations that are alive while it embeds an image, by
            which memory is planned.
    """

    image_elements: int = 0

    def rename(self, name: str) -> str | None:
        """The name under which the model expects a tensor of a Hugging Face checkpoint, or None for one that it leaves
        out (the vision tower of a model that is served as text). By default names are as they are.
        """
        return name

    def forward(self, step: Step) -> Tensor:
        """Hidden states after the last norm, ``[T, C]``."""
        raise NotImplementedError

    def embed_image(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """The embeddings of one image, ``[N, C]``: one for each token in the ``rows`` of
        :class:`dovetail.api.ProcessedImage`. A model that sees takes :meth:`dovetail.nn.Step.merge_images` of the
        vocabulary's embeddings; :class:`dovetail.nn.Decoder` does.

        Args:
            arrays: what the model's processor made of the image, by name, on the device.
        """
        raise NotImplementedError

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        """The logits of the model's own head for pooled vectors, which are not normalised, in the dtype of activations:
        ``[P, C]`` → ``[P, K]``, which may be float32.

        Only models whose card claims ``classify``, with K labels, or ``score``, with K = 1, have this. The engine
        converts logits to probabilities.
        """
        raise NotImplementedError


class CausalLM(PoolingModel):
    """A decoder that also maps hidden states to logits. A subclass sets :attr:`head`. It can also serve embeddings
    without further code.
    """

    head: Head

    def logits(self, hidden: Tensor) -> Tensor:
        """``[L, C]`` → ``[L, V]``."""
        out: Tensor = self.head(hidden)
        return out

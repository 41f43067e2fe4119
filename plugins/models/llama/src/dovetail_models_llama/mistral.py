"""The names of Mistral's own files for the metadata and tensors of a model without experts.

Source: the package ``mistral-inference``.
"""

from __future__ import annotations

from dovetail.api import MistralNaming


class DenseNaming(MistralNaming):
    """Translates Mistral's files without experts; see :class:`dovetail.api.Naming`."""

    architecture = "MistralForCausalLM"
    model_type = "mistral"
    inner = MistralNaming.inner | {
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }


NAMING = DenseNaming()

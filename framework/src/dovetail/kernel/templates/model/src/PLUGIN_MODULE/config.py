"""What the model reads from ``config.json``. Imported before a model is chosen, so it must not import torch."""

from __future__ import annotations

from dovetail.api import DecoderConfig, Epsilon
from pydantic import model_validator


class PLUGIN_CLASSConfig(DecoderConfig):
    """Keys without a default must be in the file; a value that cannot be honoured is refused with a sentence.

    The base reads heads, windows, layer types and rotary embeddings, and checks that they fit together.
    """

    rms_norm_eps: Epsilon = 1e-6

    @model_validator(mode="after")
    def _check_activation(self) -> PLUGIN_CLASSConfig:
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported, only silu")
        return self

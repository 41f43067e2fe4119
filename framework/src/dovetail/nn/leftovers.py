"""Checkpoint tensors that are not part of a model: buffers that it computes itself, and leftovers of training."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from dovetail.api.checkpoint import LazyTensor

logger = logging.getLogger("dovetail.nn")

BUFFER = "saved buffers"
EMPTY = "tensors without elements"
"""Such as those of no shared experts."""
FURTHER = "layers past the last one"
OF_CACHE = "scales of a quantized KV cache"
BUFFERS = re.compile(
    r"(?:^|\.)(?:inv_freq|original_inv_freq|freqs_cis|rope\.freqs|rotary\w*\.(?:cos|sin)|cos_cached|sin_cached"
    r"|position_ids|token_type_ids|masked_bias|causal_mask|attn_mask|attention_mask|num_batches_tracked)$"
)
MASKS = re.compile(r"(?:^|\.)(?:attn|attention|self_attn|self_attention)\.bias$")
"""A name that old attention layers use for their causal mask. A bias has one dimension, a mask has two or more."""
CACHE_SCALES = re.compile(
    r"\.(?:self_attn|attn|attention)\.(?:(?:attn\.)?(?:[kqv]|kv|prob)_(?:scale|zero_point)|[kqv]_proj\.(?:[kv]_scale|output_scale))$"
)
"""The cache keeps the model's dtype, and needs none."""
OF_TRAINERS = {
    "heads of trainers": re.compile(
        r"^(?:model\.|pretrained_model\.)?(?:v_head|value_head|reward_head|critic|critic_head|q_heads?|ilql_heads|score|classifier)\."
    ),
    "adapter weights": re.compile(
        r"(?:^|\.)(?:lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)|prompt_encoder)(?:\.|$)"
    ),
    "optimizer states": re.compile(r"^(?:optimizer|optim|lr_scheduler)\.|\.(?:exp_avg|exp_avg_sq|momentum_buffer)$"),
}
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that come from the wrappers of parallel and compiled training."""
MOST_NAMES = 3
"""Maximum number of names of a kind in the log."""


def without_wrappers(name: str) -> str:
    """The name that a tensor had before a trainer wrapped the model."""
    return WRAPPERS.sub("", name)


class Leftovers:
    """Collects the ignored tensors of a checkpoint.

    Attributes:
        names: kind of leftover → names of its tensors in the checkpoint.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def take(
        self,
        name: str,
        tensor: LazyTensor,
        ignored: Iterable[str] = (),
        layers: Mapping[str, int] = MappingProxyType({}),
    ) -> bool:
        """Whether a tensor that the model does not expect may be ignored. If so, its name is recorded.

        Args:
            name: in Hugging Face's spelling.
            ignored: endings of names that the model itself ignores.
            layers: name of the model's layers → the number from which on it ignores them.
        """
        name = without_wrappers(name)
        further = any(_is_of_layer(name, prefix, first) for prefix, first in layers.items())
        kind = FURTHER if further else self._kind(name, tensor, ignored)
        if kind is not None:
            self.names.setdefault(kind, []).append(tensor.name)
        return kind is not None

    def log(self) -> None:
        """Log all of them in one line, as a warning if a user may need them."""
        if not self.names:
            return
        parts = []
        for kind, names in self.names.items():
            more = ", …" if len(names) > MOST_NAMES else ""
            parts.append(f"{kind}: {len(names)} ({', '.join(names[:MOST_NAMES])}{more})")
        level = logging.INFO if set(self.names) <= {BUFFER, EMPTY, FURTHER, OF_CACHE} else logging.WARNING
        count = sum(map(len, self.names.values()))
        logger.log(level, "left out %d tensors that are no part of the model; %s", count, "; ".join(parts))

    def _kind(self, name: str, tensor: LazyTensor, ignored: Iterable[str]) -> str | None:
        if 0 in tensor.shape:
            return EMPTY
        if BUFFERS.search(name) or (MASKS.search(name) and len(tensor.shape) > 1) or name.endswith(tuple(ignored)):
            return BUFFER
        if CACHE_SCALES.search(name):
            return OF_CACHE
        return next((kind for kind, pattern in OF_TRAINERS.items() if pattern.search(name)), None)


def _is_of_layer(name: str, prefix: str, first: int) -> bool:
    """Whether a tensor is of one of the layers ``<prefix>.<number>`` from number ``first`` on."""
    number = name.removeprefix(f"{prefix}.").partition(".")[0]
    return name.startswith(f"{prefix}.") and number.isdecimal() and int(number) >= first

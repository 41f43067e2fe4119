"""From logits to tokens: vectorised over the batch, on the device. A feature that no request of a step uses costs
nothing.

Every choice is made in integers (see :mod:`~dovetail.engine.sampling.draw`), so a row gets the same token alone and in
any batch.
"""

from dovetail.engine.sampling.bitmask import apply_bitmask
from dovetail.engine.sampling.edits import LogitEdits, build_logit_edits
from dovetail.engine.sampling.logprobs import Logprobs, compute_logprobs
from dovetail.engine.sampling.metadata import SamplingMetadata, build_sampling_metadata
from dovetail.engine.sampling.sampler import Sampled, sample
from dovetail.engine.sampling.tables import SamplingTables

__all__ = [
    "LogitEdits",
    "Logprobs",
    "Sampled",
    "SamplingMetadata",
    "SamplingTables",
    "apply_bitmask",
    "build_logit_edits",
    "build_sampling_metadata",
    "compute_logprobs",
    "sample",
]

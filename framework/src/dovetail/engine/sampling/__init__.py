"""From logits to tokens: vectorised over the batch, on the device, and free of cost for what no request asks for.

Every choice is made in integers (see :mod:`~dovetail.engine.sampling.draw`), so a row gets the same token alone and in any batch.
"""

from dovetail.engine.sampling.bitmask import apply_bitmask
from dovetail.engine.sampling.edits import Edits, host_edits
from dovetail.engine.sampling.logprobs import Logprobs, logprobs_of
from dovetail.engine.sampling.rows import SamplingRows
from dovetail.engine.sampling.sampler import Sampled, sample
from dovetail.engine.sampling.wants import Wants, wants_of

__all__ = [
    "Edits",
    "Logprobs",
    "Sampled",
    "SamplingRows",
    "Wants",
    "apply_bitmask",
    "host_edits",
    "logprobs_of",
    "sample",
    "wants_of",
]

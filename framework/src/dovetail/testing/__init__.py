"""The conformance kit, for the tests of plugin packages (``dovetail[test]``).

It has one ``check_…`` function for each kind of card. Call it from a test: it makes test cases from the card, compares
every claim with a reference, and fails with the claim that is not met.
"""

from dovetail.testing.attention import check_attention
from dovetail.testing.formats import WeightSample, check_format
from dovetail.testing.grammars import GrammarSample, check_grammar
from dovetail.testing.harness import (
    BlockTables,
    build_model,
    empty_model,
    lazy_tensors,
    random_checkpoint,
    run_batch,
    run_tokens,
    store_together,
)
from dovetail.testing.images import check_images
from dovetail.testing.loaders import check_loader
from dovetail.testing.logits_processors import check_logits_processor
from dovetail.testing.models import check_model
from dovetail.testing.packings import AffineSample, sample_weights, unpack_affine
from dovetail.testing.parity import Original, check_parity
from dovetail.testing.parsers import check_reasoning_parser, check_tool_parser
from dovetail.testing.platforms import OperationSample, check_platform
from dovetail.testing.proposers import check_proposer
from dovetail.testing.quantization import check_kernel, sample_experts
from dovetail.testing.ranks import run_ranks
from dovetail.testing.reference import ReferenceAttention, ReferencePlatform
from dovetail.testing.registration import check_registration
from dovetail.testing.resolution import make_registry
from dovetail.testing.samples.parsers import (
    ReasoningSample,
    ToolSample,
    read_reasoning_samples,
    read_tool_samples,
)

__all__ = [
    "AffineSample",
    "BlockTables",
    "GrammarSample",
    "OperationSample",
    "Original",
    "ReasoningSample",
    "ReferenceAttention",
    "ReferencePlatform",
    "ToolSample",
    "WeightSample",
    "build_model",
    "check_attention",
    "check_format",
    "check_grammar",
    "check_images",
    "check_kernel",
    "check_loader",
    "check_logits_processor",
    "check_model",
    "check_parity",
    "check_platform",
    "check_proposer",
    "check_reasoning_parser",
    "check_registration",
    "check_tool_parser",
    "empty_model",
    "lazy_tensors",
    "make_registry",
    "random_checkpoint",
    "read_reasoning_samples",
    "read_tool_samples",
    "run_batch",
    "run_ranks",
    "run_tokens",
    "sample_experts",
    "sample_weights",
    "store_together",
    "unpack_affine",
]

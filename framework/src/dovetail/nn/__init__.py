"""Building blocks for models, and the interfaces for quantization, attention and platforms."""

from dovetail.nn.attention import Attention, AttentionBackend, AttentionSpec, Rotation
from dovetail.nn.blocks import MLP, GatedMLP, HeadNorms, QKNorm, SelfAttention
from dovetail.nn.context import Bias, Context
from dovetail.nn.decoders import (
    CausalDecoder,
    Decoder,
    DecoderNames,
    ParallelBlock,
    PostNormBlock,
    PreNormBlock,
    SequenceClassifier,
)
from dovetail.nn.experts import Experts, ExpertsKernel, ExpertWeights
from dovetail.nn.layers import Embedding, Head, HeadSections, LayerNorm, Linear, RMSNorm
from dovetail.nn.mixtures import Mixture
from dovetail.nn.model import CausalLM, PoolingModel
from dovetail.nn.ops import Ops
from dovetail.nn.packings import AffineWeight, CodebookWeight, Float4Weight, ScaledFloatWeight, TwoLevelScales
from dovetail.nn.parallel import ColumnCut, Communicator, Parallel, RowCut
from dovetail.nn.platform import Memory, Platform
from dovetail.nn.rotary import LayerRotary, Rope, Rotary
from dovetail.nn.step import HostLengths, KVIndex, Step
from dovetail.nn.stored import Axis, Field, StoredWeight
from dovetail.nn.weights import Components, DeferredNorm, Gate, QuantFormat, WeightKernel, WeightName, read_tensor

__all__ = [
    "MLP",
    "AffineWeight",
    "Attention",
    "AttentionBackend",
    "AttentionSpec",
    "Axis",
    "Bias",
    "CausalDecoder",
    "CausalLM",
    "CodebookWeight",
    "ColumnCut",
    "Communicator",
    "Components",
    "Context",
    "Decoder",
    "DecoderNames",
    "DeferredNorm",
    "Embedding",
    "ExpertWeights",
    "Experts",
    "ExpertsKernel",
    "Field",
    "Float4Weight",
    "Gate",
    "GatedMLP",
    "Head",
    "HeadNorms",
    "HeadSections",
    "HostLengths",
    "KVIndex",
    "LayerNorm",
    "LayerRotary",
    "Linear",
    "Memory",
    "Mixture",
    "Ops",
    "Parallel",
    "ParallelBlock",
    "Platform",
    "PoolingModel",
    "PostNormBlock",
    "PreNormBlock",
    "QKNorm",
    "QuantFormat",
    "RMSNorm",
    "Rope",
    "Rotary",
    "Rotation",
    "RowCut",
    "ScaledFloatWeight",
    "SelfAttention",
    "SequenceClassifier",
    "Step",
    "StoredWeight",
    "TwoLevelScales",
    "WeightKernel",
    "WeightName",
    "read_tensor",
]

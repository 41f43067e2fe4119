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
from dovetail.nn.grouped import Codes, GroupedWeight, PackedWeight, pack_integers, packed_axis, unpack_integers
from dovetail.nn.layers import Embedding, Head, HeadSections, HeadStack, LayerNorm, Linear, RMSNorm
from dovetail.nn.mixtures import Mixture
from dovetail.nn.model import CausalLM, PoolingModel
from dovetail.nn.ops import Ops
from dovetail.nn.packings import AffineWeight, CodebookWeight, Float4Weight, ScaledFloatWeight, TwoLevelScales
from dovetail.nn.parallel import ColumnCut, Communicator, HeadCut, Parallel, Range, RowCut
from dovetail.nn.platform import Memory, Platform
from dovetail.nn.rotary import LayerRotary, Rope, Rotary
from dovetail.nn.scaled import MicroscaledWeight, ScaledWeight, read_microscales, read_scales
from dovetail.nn.step import HostLengths, KVIndex, Step
from dovetail.nn.stored import Axis, Field, StoredWeight
from dovetail.nn.towers import PatchEmbedding, TowerAttention, TowerBlock
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
    "Codes",
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
    "GroupedWeight",
    "Head",
    "HeadCut",
    "HeadNorms",
    "HeadSections",
    "HeadStack",
    "HostLengths",
    "KVIndex",
    "LayerNorm",
    "LayerRotary",
    "Linear",
    "Memory",
    "MicroscaledWeight",
    "Mixture",
    "Ops",
    "PackedWeight",
    "Parallel",
    "ParallelBlock",
    "PatchEmbedding",
    "Platform",
    "PoolingModel",
    "PostNormBlock",
    "PreNormBlock",
    "QKNorm",
    "QuantFormat",
    "RMSNorm",
    "Range",
    "Rope",
    "Rotary",
    "Rotation",
    "RowCut",
    "ScaledFloatWeight",
    "ScaledWeight",
    "SelfAttention",
    "SequenceClassifier",
    "Step",
    "StoredWeight",
    "TowerAttention",
    "TowerBlock",
    "TwoLevelScales",
    "WeightKernel",
    "WeightName",
    "pack_integers",
    "packed_axis",
    "read_microscales",
    "read_scales",
    "read_tensor",
    "unpack_integers",
]

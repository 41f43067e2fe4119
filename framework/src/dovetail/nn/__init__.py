"""Building blocks for models, and the interfaces for quantization, attention and platforms."""

from dovetail.nn.attention import Attention, AttentionBackend, AttentionSpec
from dovetail.nn.blocks import GatedMLP, SelfAttention
from dovetail.nn.context import Context
from dovetail.nn.layers import Embedding, Head, Linear, RMSNorm
from dovetail.nn.model import CausalLM, PoolingModel
from dovetail.nn.ops import Ops
from dovetail.nn.platform import Memory, Platform
from dovetail.nn.rotary import LayerRotary, Rope, Rotary
from dovetail.nn.step import HostLengths, KVIndex, Step
from dovetail.nn.weights import AffineWeight, QuantFormat, StoredWeight, TwoLevelScales, WeightKernel

__all__ = [
    "AffineWeight",
    "Attention",
    "AttentionBackend",
    "AttentionSpec",
    "CausalLM",
    "Context",
    "Embedding",
    "GatedMLP",
    "Head",
    "HostLengths",
    "KVIndex",
    "LayerRotary",
    "Linear",
    "Memory",
    "Ops",
    "Platform",
    "PoolingModel",
    "QuantFormat",
    "RMSNorm",
    "Rope",
    "Rotary",
    "SelfAttention",
    "Step",
    "StoredWeight",
    "TwoLevelScales",
    "WeightKernel",
]

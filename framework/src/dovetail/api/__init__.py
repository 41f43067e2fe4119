"""What a plugin author imports: hooks, cards, protocols and errors.

Importing this package never imports torch, so a plugin's registration module stays cheap.
"""

from dovetail.api.cards import (
    PORTABLE,
    REFERENCE,
    TUNED,
    AttentionCard,
    AttentionKind,
    Card,
    Device,
    Dotted,
    DType,
    LayerKind,
    LoaderCard,
    ModelCard,
    NamingCard,
    PlatformCard,
    QuantFormatCard,
    QuantKernelCard,
    SourceCard,
    Task,
)
from dovetail.api.checkpoint import Checkpoint, LazyTensor, Naming, TokenizerParts
from dovetail.api.config import AttentionNeed, ModelConfig
from dovetail.api.errors import (
    CheckpointError,
    ConfigError,
    ConflictError,
    DovetailError,
    EngineDeadError,
    PluginError,
    RequestError,
    ResolutionError,
    UsageError,
)
from dovetail.api.hooks import PROJECT, hookimpl

__all__ = [
    "PORTABLE",
    "PROJECT",
    "REFERENCE",
    "TUNED",
    "AttentionCard",
    "AttentionKind",
    "AttentionNeed",
    "Card",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "ConflictError",
    "DType",
    "Device",
    "Dotted",
    "DovetailError",
    "EngineDeadError",
    "LayerKind",
    "LazyTensor",
    "LoaderCard",
    "ModelCard",
    "ModelConfig",
    "Naming",
    "NamingCard",
    "PlatformCard",
    "PluginError",
    "QuantFormatCard",
    "QuantKernelCard",
    "RequestError",
    "ResolutionError",
    "SourceCard",
    "Task",
    "TokenizerParts",
    "UsageError",
    "hookimpl",
]

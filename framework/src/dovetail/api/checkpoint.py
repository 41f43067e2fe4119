"""The description of a checkpoint that a loader returns, and its lazy tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ConfigDict

from dovetail.api.cards import Dotted
from dovetail.api.documented import DocumentedModel

if TYPE_CHECKING:
    import tokenizers
    import torch

HF_TOKENIZER = "dovetail.engine.text.tokenizer_files:read_tokenizer_parts"
"""Reads the tokenizer files of a Hugging Face checkpoint."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The result of a source for a model reference.

    Attributes:
        path: the checkpoint, a folder or a file.
        generation_config: the sampling parameters that the model's makers recommend, with the keys of
            ``generation_config.json``. The checkpoint's own values are used first, key by key.
    """

    path: str
    generation_config: Mapping[str, Any] = field(default_factory=dict)


class Checkpoint(DocumentedModel):
    """A checkpoint on disk, described without reading weights and without torch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """The folder or file of the model reference."""
    files: tuple[str, ...]
    """The weight files, in order, as full paths."""
    config: dict[str, Any] = {}
    """``config.json``, or empty if the container has its own metadata (see ``naming``)."""
    config_file: str = ""
    """The source of ``config``, for error messages."""
    naming: str | None = None
    """The container's naming, if its tensors are not named as in Hugging Face checkpoints. Models describe how to
    read it in :attr:`dovetail.api.ModelCard.naming`.
    """
    architecture: str | None = None
    """The container's own name of the architecture, under ``naming``."""
    metadata: dict[str, Any] = {}
    """The container's metadata without long lists, if it has a ``naming``. Otherwise data that the loader itself
    needs later.
    """
    tensor_types: dict[str, int] = {}
    """Stored type (a torch dtype's name, or a quantized type's) → number of tensors. If there are files, the loader
    yields as many.
    """
    generation_config: dict[str, Any] = {}
    """Default sampling parameters and end-of-sequence ids, as in ``generation_config.json``."""
    tokenizer: Dotted = HF_TOKENIZER
    """``(path: str) -> TokenizerParts``, called with :attr:`tokenizer_path`."""
    tokenizer_path: str = ""


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    """The tokenizer data of a container. The engine builds its Tokenizer from it.

    Attributes:
        backend: the ``tokenizers`` object.
        special_tokens: special tokens by name, such as ``bos_token`` → ``<s>``.
        eos_token_ids: every token that ends an output; empty for the one named ``eos_token``.
        chat_template: Jinja source, or several by name. Those named ``default`` and ``tool_use`` are selected
            automatically.
    """

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]
    eos_token_ids: Sequence[int] = ()
    chat_template: str | Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor that is still in its file.

    Attributes:
        name: as in the checkpoint (before :meth:`Naming.rename`).
        shape: the logical shape, rows first; for a weight matrix ``(out, in)``.
        type: the stored type: a torch dtype's name, or the name of a quantized type.
        read: returns the tensor with that dtype and shape, or for a block-quantized type the packed bytes, uint8
            ``[rows, bytes per row]``. It may share memory with the mapped file, and must not be written to; it may be
            on any device.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    read: Callable[[], torch.Tensor]


class Naming(Protocol):
    """Translates a container's metadata and tensor names into those of Hugging Face checkpoints."""

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The ``config.json`` of the same model, including ``architectures``.

        Raises:
            ConfigError: a required key is not in ``metadata``, or they describe a variant that this model is not. The
                next model that reads the container's architecture is then asked.
        """
        ...

    def rename(self, name: str) -> str | None:
        """The Hugging Face name of a tensor, or None for one that the model does not need."""
        ...

    def row_order(self, name: str, config: Mapping[str, Any]) -> Any | None:
        """For tensors (by Hugging Face name) whose rows are stored in another order: an index array ``order`` with
        ``hf[i] = stored[order[i]]``, or None.
        """
        ...

"""Cards: what a plugin says of each thing it offers.

A card is frozen, cheap, and complete: resolution decides by cards alone, and imports a card's ``target`` only when it
won. Every claim on a card is exercised by the conformance kit (``dovetail.testing``); what is not claimed is refused.

Attributes named ``target``, ``probe``, ``inspect`` or ``config`` are dotted names, ``"package.module:attribute"``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from dovetail.api.grammar import GrammarKind

REFERENCE = 0
"""Rank of something correct and slow, that other things are compared with."""
PORTABLE = 50
"""Rank of something that works everywhere at a reasonable speed."""
TUNED = 100
"""Rank of something written for particular hardware or shapes."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._+-]*$", max_length=64)]
Dotted = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
Device = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
"""A torch device type, such as ``cpu``."""
DType = Annotated[str, StringConstraints(pattern=r"^(float|bfloat|int|uint)\d+(_\w+)?$")]
"""A torch dtype's name without the ``torch.`` prefix."""

Task = Literal["generate", "embed", "classify", "score"]
"""What a model is asked for: text; a vector; probabilities of labels; how well two texts go together."""
PoolingType = Literal["last", "mean", "cls"]
"""What stands for a whole prompt: the hidden state of its last token, the mean over all of them, or that of the first."""
LayerKind = Literal["linear", "embedding", "head", "experts"]
AttentionKind = Literal["full", "sliding", "chunked", "softcap", "sinks", "latent", "encoder", "recurrent"]


class Card(BaseModel):
    """What every card has: a name that is unique among cards of its kind, and a rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]

    name: Name
    """Lower case; what users write in flags and ``--prefer``."""
    summary: str = ""
    """One line for ``dovetail plugins list``."""
    rank: int = Field(default=PORTABLE, ge=0, le=1000)
    """Among cards that fit, ``auto`` takes the highest (REFERENCE 0, PORTABLE 50, TUNED 100)."""


class NamingCard(BaseModel):
    """How a model family's tensors and metadata are named in a container that has names of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architectures: tuple[str, ...]
    """The container's own architecture names that this family covers."""
    target: Dotted
    """A :class:`dovetail.api.Naming`; its module must not import torch."""


class ModelCard(Card):
    """A model architecture.

    ``target`` is a class built on :class:`dovetail.nn.CausalLM` where it does the task ``generate``, otherwise on :class:`dovetail.nn.PoolingModel`.
    """

    kind: ClassVar[str] = "model"

    architectures: tuple[str, ...] = Field(min_length=1)
    """Names as they stand in ``config.json``."""
    target: Dotted
    """The model's class; imported in the engine alone."""
    config: Dotted
    """A subclass of :class:`dovetail.api.ModelConfig`; its module must not import torch."""
    tasks: tuple[Task, ...] = ("generate",)
    """What it can be asked for. ``embed`` can be had of any model (``--convert embed``) and is claimed by those that were trained for it; ``classify``
    and ``score`` need its class to have ``pooled_logits``."""
    pooling: PoolingType = "last"
    """How hidden states become one vector, where neither the checkpoint's files nor the user says."""
    dtypes: tuple[DType, ...] = ("float32", "bfloat16", "float16")
    """Dtypes in which activations may be computed."""
    attention: tuple[AttentionKind, ...] = ("full",)
    """Every attention kind that some configuration of this model asks for."""
    naming: dict[str, NamingCard] = {}
    """For containers whose tensors are not named as in Hugging Face checkpoints, keyed by the name that the
    loader gives the container's naming."""


class LoaderCard(Card):
    """A reader of weight files.

    ``inspect(path: str, files: tuple[str, ...]) -> Checkpoint`` describes what is there without torch; ``target`` is a callable
    ``(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterable[LazyTensor]`` that the engine process
    calls. ``expected`` maps the Hugging Face name of every tensor that the model cannot do without to its logical shape, and ``device`` is
    where all of them go: files that say what they hold need neither, but a loader may read straight to the device.
    """

    kind: ClassVar[str] = "loader"

    recognises: tuple[str, ...]
    """Glob patterns of the file names that it reads, in capitals or not. One that reads no files has none: it is taken only when ``--load-format`` names it, and its
    ``inspect`` is given no files."""
    signatures: tuple[str, ...] = ()
    """What its files begin with, a character for each byte. A file that begins so is this loader's whatever its name, and no other's."""
    inspect: Dotted
    """Describes a checkpoint; its module must not import torch."""
    target: Dotted
    """Yields the tensors; imported in the engine alone."""


class QuantFormatCard(Card):
    """A packing of weights on disk and in memory, with its reference dequantization.

    ``target`` is a :class:`dovetail.nn.QuantFormat`.
    """

    kind: ClassVar[str] = "format"

    target: Dotted
    """The format's class."""
    types: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Stored tensor type → the packings it can also be handed out as (for kernels that know the packing but not
    the type)."""
    methods: tuple[str, ...] = ()
    """Values of ``quantization_config.quant_method`` that it reads; empty for formats known by tensor type alone."""
    kinds: tuple[LayerKind, ...] = ("linear", "embedding", "head")
    """Layers that it keeps weights of."""


class QuantKernelCard(Card):
    """A matrix kernel for weights in certain stored types or packings.

    ``target`` is a :class:`dovetail.nn.WeightKernel`, which may still decline a weight for its shape, with the reason.
    """

    kind: ClassVar[str] = "kernel"

    target: Dotted
    """The kernel's class."""
    packings: tuple[str, ...] = Field(min_length=1)
    """Stored types or packings it takes; ``"*"`` takes anything that can be dequantized."""
    devices: tuple[Device | Literal["*"], ...]
    """Torch device types; ``"*"`` for any."""
    dtypes: tuple[DType, ...]
    """Dtypes of the activations."""
    kinds: tuple[LayerKind, ...] = ("linear", "head")
    """Layers that it serves."""
    probe: Dotted | None = None
    """``() -> str | None``: why it cannot run on this machine, or None if it can."""


class AttentionCard(Card):
    """An attention backend. ``target`` is a :class:`dovetail.nn.AttentionBackend`."""

    kind: ClassVar[str] = "attention"

    target: Dotted
    """The backend's class."""
    devices: tuple[Device | Literal["*"], ...]
    """Torch device types; ``"*"`` for any."""
    dtypes: tuple[DType, ...]
    """Dtypes of queries and results."""
    kinds: tuple[AttentionKind, ...] = ("full",)
    """Kinds of attention layer that it does."""
    head_dims: tuple[int, ...] | None = None
    """Head sizes it takes; None for any."""
    kv_dtypes: tuple[DType, ...] = ()
    """Dtypes of the KV cache besides the activations' own."""
    block_sizes: tuple[int, ...] | None = None
    """KV-cache block sizes (tokens) it takes; None for any."""
    probe: Dotted | None = None
    """``() -> str | None``: why it cannot run on this machine, or None if it can."""


class PlatformCard(Card):
    """A device platform. ``target`` is a :class:`dovetail.nn.Platform`."""

    kind: ClassVar[str] = "platform"

    device: Device
    """The torch device type."""
    target: Dotted
    """The platform's class."""
    dtypes: tuple[DType, ...] = ("float32", "bfloat16", "float16")
    """Dtypes that it computes in."""
    default_dtype: DType = "float32"
    """Taken by ``--dtype auto`` when the checkpoint does not say which dtype its activations want."""
    probe: Dotted | None = None
    """``() -> str | None``: why this device is not to be had on this machine, or None if it is."""


class SourceCard(Card):
    """A meaning of model references.

    ``target`` is ``resolve(reference: str | None, *, revision, download_dir, patterns, token) -> str | ResolvedModel | None``: the path of the
    checkpoint (a folder or a file), or None when the reference is not of this source's kind. ``reference`` is None when the user
    named no model. ``token`` is the secret of ``--hf-token``: a text, True for one that is kept on the machine, or None; it must not be shown.
    A source that knows which sampling parameters suit the model answers with a :class:`dovetail.api.ResolvedModel`.
    """

    kind: ClassVar[str] = "source"

    target: Dotted
    """The function ``resolve``; its module must not import torch."""


class GrammarCard(Card):
    """A backend of structured output. ``target`` is a :class:`dovetail.api.GrammarBackend`."""

    kind: ClassVar[str] = "grammar"

    target: Dotted
    """The backend's class; imported in the engine when the first request asks for structure."""
    validate_source: Dotted
    """``(source: GrammarSource) -> Sequence[str] | None``, torch-free and quick: raises :class:`dovetail.api.RequestError` for what does not compile,
    before a request is queued. Returns what the backend leaves out of the form, each as a notice for the user."""
    kinds: tuple[GrammarKind, ...] = Field(min_length=1)
    """Forms that it understands."""


class ProposerCard(Card):
    """A source of draft tokens for speculative decoding. ``target`` is a :class:`dovetail.api.Proposer`."""

    kind: ClassVar[str] = "proposer"

    target: Dotted
    """The proposer's class; imported in the engine alone."""
    config: Dotted
    """A pydantic model of what ``--speculative-config`` may hold for this method besides ``method`` and ``num_speculative_tokens``; it forbids
    what it does not know, and its module must not import torch."""
    num_tokens: int = Field(default=4, gt=0)
    """Tokens to guess at a time where ``num_speculative_tokens`` does not say."""
    model: bool = False
    """Whether it runs a model of its own. Its ``config`` is then a :class:`dovetail.api.DraftOptions`, from which the model is resolved into a Plan; taken
    where ``--speculative-config`` names a model and no method."""


class LogitsProcessorCard(Card):
    """What changes logits before a token is chosen. ``target`` is a :class:`dovetail.api.LogitsProcessor`.

    Requests ask for it by ``name``, in ``logits_processors``.
    """

    kind: ClassVar[str] = "logits_processor"

    target: Dotted
    """The processor's class; imported in the engine when it is first asked for."""
    config: Dotted | None = None
    """A pydantic model of the arguments that a request may give; it forbids what it does not know, and its module must not import torch. Without one, a
    request may give any."""


class ParserCard(Card):
    """What cards of parsers share. Their modules must not import torch: they are imported in the API's process."""

    target: Dotted
    """The parser's class."""
    recognises: tuple[str, ...]
    """Regular expressions. ``auto`` takes the highest-ranked parser that finds one of them in the model's chat template, which shows the notation that the
    model was trained on."""
    special_tokens: tuple[str, ...] = ()
    """Parts of the notation that may be special tokens of the tokenizer, which are no text unless a parser asks for them."""


class ToolParserCard(ParserCard):
    """A notation of tool calls. ``target`` is a :class:`dovetail.api.ToolParser`."""

    kind: ClassVar[str] = "tool_parser"


class ReasoningParserCard(ParserCard):
    """A notation of reasoning. ``target`` is a :class:`dovetail.api.ReasoningParser`."""

    kind: ClassVar[str] = "reasoning_parser"

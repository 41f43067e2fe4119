"""Cards: the descriptions of what a plugin offers.

A card is frozen, cheap, and complete. Resolution decides by cards only, and imports a card's ``target`` only if the
card is selected. The conformance kit (``dovetail.testing``) tests every claim of a card; what is not claimed is
refused.

Attributes named ``target``, ``probe``, ``inspect`` or ``config`` are dotted names, ``"package.module:attribute"``.
A probe is ``() -> str | None``: why the part cannot run on this machine, or None if it can. An empty text is no reason:
it counts as a probe that failed, as an exception does, and the part is not taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, model_validator

from dovetail.api.documented import DocumentedModel
from dovetail.api.grammar import GrammarKind

REFERENCE = 0
"""Rank of a reference: correct and slow; other parts are compared with it."""
PORTABLE = 50
"""Rank of a part that works everywhere at a reasonable speed."""
TUNED = 100
"""Rank of a part that was written for particular hardware or shapes."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._+-]*$", max_length=64)]
Dotted = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
Device = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
"""A torch device type, such as ``cpu``."""
DType = Annotated[str, StringConstraints(pattern=r"^(float|bfloat|int|uint)\d+(_\w+)?$")]
"""A torch dtype's name without the ``torch.`` prefix."""

Task = Literal["generate", "embed", "classify", "score"]
"""A model's task: text; a vector; probabilities of labels; the score of a pair of texts."""
PoolingType = Literal["last", "mean", "cls"]
"""How a prompt is pooled: the hidden state of its last token, the mean over all tokens, or the first token's."""
LayerKind = Literal["linear", "embedding", "head", "experts"]
AttentionFeature = Literal[
    "sliding",
    "chunked",
    "softcap",
    "sinks",
    "alibi",
    "bidirectional",
    "value_dim",
    "latent",
    "shared_cache",
    "recurrent",
]
"""What a layer may ask for beside causal attention over everything; :class:`dovetail.nn.AttentionSpec` explains
each. ``recurrent`` layers keep a state of fixed size in place of a cache.
"""
APART: tuple[frozenset[AttentionFeature], ...] = (
    frozenset({"sliding", "chunked"}),
    frozenset({"bidirectional", "chunked"}),
    frozenset({"bidirectional", "latent"}),
    frozenset({"bidirectional", "shared_cache"}),
    frozenset({"latent", "value_dim"}),
)
"""Features that no layer has together, so a card need not exclude them: a token sees a window or a chunk; what sees all
of its request keeps no cache; and a latent row has values of its own size anyway.
"""


class Card(DocumentedModel):
    """Common fields of all cards: a name that is unique among cards of its kind, and a rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]

    name: Name
    """Lower case. Users write it in flags and ``--prefer``."""
    summary: str = ""
    """One line for ``dovetail plugins list``."""
    rank: int = Field(default=PORTABLE, ge=0, le=1000)
    """``auto`` selects the card with the highest rank among those that fit (REFERENCE 0, PORTABLE 50, TUNED 100)."""

    if not TYPE_CHECKING:  # type checkers go by the fields

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                error.add_note(repr(fields.get("name")))  # which of a hundred cards it is
                raise


class NamingCard(DocumentedModel):
    """How a model family's tensors and metadata are named in a container with its own naming."""

    # Of a model's card it is a field, and is checked there again.
    model_config = ConfigDict(frozen=True, extra="forbid", revalidate_instances="always")

    architectures: tuple[str, ...]
    """The container's own architecture names that this family covers. If several families cover one, the first whose
    naming does not refuse the metadata reads them.
    """
    target: Dotted
    """A :class:`dovetail.api.Naming`: an instance and not its class, such as ``"package.names:NAMING"`` with
    ``NAMING = Names()``. Its module must not import torch.
    """


class ModelCard(Card):
    """A model architecture.

    ``target`` is a subclass of :class:`dovetail.nn.CausalLM` if the model serves the task ``generate``, otherwise of
    :class:`dovetail.nn.PoolingModel`.
    """

    kind: ClassVar[str] = "model"

    architectures: tuple[str, ...] = Field(min_length=1)
    """Names as in ``architectures`` of ``config.json``. A card may have patterns with ``*``, and then serves whatever
    matches and its ``accepts`` does not object to; give it a low rank, so that one with the name is preferred.
    """
    accepts: Dotted | None = None
    """For a card with patterns: ``(architecture: str, config: dict) -> str | None`` returns None if the model can be
    served, otherwise why it cannot. Its module must not import torch.
    """
    target: Dotted
    """The model's class; imported only in the engine."""
    config: Dotted
    """A subclass of :class:`dovetail.api.ModelConfig`; its module must not import torch."""
    tasks: tuple[Task, ...] = ("generate",)
    """Tasks that it serves. Any model can serve ``embed`` (``--convert embed``); a card claims it if the model was
    trained for it. ``classify`` and ``score`` require that the class has ``pooled_logits``; of a card with both, a configuration
    with one label serves them, and one with several ``classify`` alone.
    """
    pooling: PoolingType = "last"
    """How hidden states become one vector, if neither the checkpoint's files nor the user says."""
    dtypes: tuple[DType, ...] = ("float32", "bfloat16", "float16")
    """Dtypes in which activations may be computed."""
    attention: tuple[AttentionFeature, ...] = ()
    """Every feature of attention that a configuration of this model may need."""
    layer_kinds: tuple[LayerKind, ...] = ("linear", "head", "embedding")
    """Kinds of layers with weights that it has."""
    processor: Dotted | None = None
    """For models that see: a :class:`dovetail.api.ImageProcessor`, whose module must not import torch. The model's class has
    :meth:`dovetail.nn.PoolingModel.embed_image`.
    """
    naming: dict[str, NamingCard] = {}
    """For containers whose tensors are not named as in Hugging Face checkpoints. The key is the loader's name of the
    container's naming.
    """


class LoaderCard(Card):
    """A reader of weight files.

    ``inspect(path: str, files: tuple[str, ...]) -> Checkpoint`` describes what is there without torch; ``target`` is a
    callable ``(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) ->
    Iterable[LazyTensor]`` that the engine process calls. It yields every tensor once: of files, as many of each type as
    ``inspect`` counted, whether the model needs them or not. ``expected`` maps the Hugging Face name of every required
    tensor to its logical shape, and ``device`` is where all tensors go. Most loaders need neither, because the files
    describe their tensors, but a loader may read directly to the device.
    """

    kind: ClassVar[str] = "loader"

    recognises: tuple[str, ...]
    """Glob patterns of the file names that it reads, in upper or lower case. A loader that reads no files has no
    patterns: it is used only if ``--load-format`` names it, and its ``inspect`` gets no files.
    """
    signatures: tuple[str, ...] = ()
    """The first bytes of its files, one character for each byte. A file that begins with them belongs to this
    loader, whatever its name, and to no other.
    """
    accepts: Dotted | None = None
    """For a loader whose patterns match files of others, too: ``(path: str, files: tuple[str, ...]) -> str | None``
    gets what ``inspect`` gets, and returns None for files that it reads, otherwise why it does not. It is not asked if
    ``--load-format`` names the loader. Its module must not import torch.
    """
    inspect: Dotted
    """Describes a checkpoint; its module must not import torch."""
    target: Dotted
    """Yields the tensors; imported only in the engine."""


class QuantFormatCard(Card):
    """A packing of weights on disk and in memory, with its reference dequantization.

    ``target`` is a :class:`dovetail.nn.QuantFormat`.
    """

    kind: ClassVar[str] = "format"

    target: Dotted
    """The format's class."""
    types: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Stored tensor type → further packings that its weights can be converted to (for kernels that support the
    packing but not the type).
    """
    methods: tuple[str, ...] = ()
    """Values of ``quantization_config.quant_method`` that it reads; empty for formats that are recognised by tensor
    type only.
    """
    kinds: tuple[LayerKind, ...] = ("linear", "embedding", "head", "experts")
    """Kinds of layers whose weights it can store. Those of experts reach it as matrices, one by one."""
    config: Dotted | None = None
    """A pydantic model of the checkpoint's ``quantization_config``, whose module must not import torch. What it refuses
    is the reason why this format does not fit. Without it, the format gets the configuration as it is in the file.
    """
    config_files: tuple[str, ...] = ()
    """Files beside ``config.json`` that hold the ``quantization_config`` of older checkpoints, whose ``config.json`` has
    none. Their ``quant_method`` is the first of ``methods``, if they name none.
    """


class QuantKernelCard(Card):
    """A matrix kernel for weights in certain stored types or packings.

    ``target`` is a :class:`dovetail.nn.WeightKernel`, or for ``experts`` a :class:`dovetail.nn.ExpertsKernel`. It may
    still refuse a weight because of its shape, with the reason.
    """

    kind: ClassVar[str] = "kernel"

    target: Dotted
    """The kernel's class."""
    packings: tuple[str, ...] = Field(min_length=1)
    """Stored types or packings that it supports; ``"*"`` for everything that can be dequantized."""
    devices: tuple[Device | Literal["*"], ...]
    """Torch device types; ``"*"`` for any."""
    dtypes: tuple[DType, ...]
    """Dtypes of the activations."""
    kinds: tuple[LayerKind, ...] = ("linear", "head")
    """Kinds of layers that it serves; ``experts`` alone, or any of the others."""
    probe: Dotted | None = None
    """``() -> str | None``: why it cannot run on this machine, or None if it can."""

    @model_validator(mode="after")
    def _one_class(self) -> QuantKernelCard:
        if "experts" in self.kinds and len(self.kinds) > 1:
            raise ValueError(
                "kernels of experts are of another class than those of matrices, and have a card of their own"
            )
        return self


class AttentionCard(Card):
    """An attention backend. ``target`` is a :class:`dovetail.nn.AttentionBackend`."""

    kind: ClassVar[str] = "attention"

    target: Dotted
    """The backend's class."""
    devices: tuple[Device | Literal["*"], ...]
    """Torch device types; ``"*"`` for any."""
    dtypes: tuple[DType, ...]
    """Dtypes of queries and results."""
    features: tuple[AttentionFeature, ...] = ()
    """Features that it supports, in any combination."""
    exclusive: tuple[tuple[AttentionFeature, ...], ...] = ()
    """Combinations that it does not support: features that one layer must not ask for together."""
    head_dims: tuple[int | tuple[int, int], ...] | None = None
    """Head sizes that it supports; None for any. A pair is the size of queries and keys, and another of values: what it
    supports of ``value_dim`` and ``latent``.
    """
    kv_dtypes: tuple[DType, ...] = ()
    """Dtypes of the KV cache besides that of the activations."""
    block_sizes: tuple[int, ...] | None = None
    """KV-cache block sizes (tokens) that it supports; None for any."""
    probe: Dotted | None = None
    """``() -> str | None``: why it cannot run on this machine, or None if it can."""

    @model_validator(mode="after")
    def _excludes_what_it_claims(self) -> Self:
        for together in self.exclusive:
            if len(set(together)) < 2 or not set(together) <= set(self.features):
                raise ValueError(f"exclusive holds {together!r}, wanted two or more of the card's features")
        return self


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
    """Used by ``--dtype auto`` if the checkpoint does not name a dtype for activations."""
    probe: Dotted | None = None
    """``() -> str | None``: why this device is not available on this machine, or None if it is."""


class SourceCard(Card):
    """A meaning of model references.

    ``target`` is ``resolve(reference: str | None, *, revision, download_dir, patterns, token) -> str | ResolvedModel | None``: the path of the
    checkpoint (an existing folder or file), or None when the reference is not of this source's kind. ``reference`` is None when the user
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
    """The backend's class; imported in the engine with the first request for structured output."""
    validate_source: Dotted
    """``(source: GrammarSource) -> Sequence[str] | None``, torch-free and quick. Called before a request is queued.
    Raises :class:`dovetail.api.RequestError` for a source that does not compile. Returns what the backend ignores in
    the source, each as a notice for the user.
    """
    kinds: tuple[GrammarKind, ...] = Field(min_length=1)
    """Kinds of grammar that it supports."""


class ProposerCard(Card):
    """A source of draft tokens for speculative decoding. ``target`` is a :class:`dovetail.api.Proposer`."""

    kind: ClassVar[str] = "proposer"

    target: Dotted
    """The proposer's class; imported only in the engine."""
    config: Dotted
    """A pydantic model of the method's own keys in ``--speculative-config``, besides ``method`` and
    ``num_speculative_tokens``. It forbids unknown keys, and its module must not import torch.
    """
    num_tokens: int = Field(default=4, gt=0)
    """Default of ``num_speculative_tokens``."""
    model: bool = False
    """Whether it runs a draft model. Its ``config`` is then a :class:`dovetail.api.DraftOptions`, from which the
    model is resolved into a Plan. Selected if ``--speculative-config`` names a model and no method.
    """


class LogitsProcessorCard(Card):
    """A logits processor, which changes logits before a token is chosen. ``target`` is a
    :class:`dovetail.api.LogitsProcessor`.

    Requests select it by ``name``, in ``logits_processors``.
    """

    kind: ClassVar[str] = "logits_processor"

    target: Dotted
    """The processor's class; imported in the engine when it is first needed."""
    config: Dotted | None = None
    """A pydantic model of a request's arguments. It forbids unknown ones, and its module must not import torch.
    Without it, any arguments are accepted.
    """


class ParserCard(Card):
    """Common fields of parser cards. Their modules must not import torch, because they are imported in the API's
    process.
    """

    target: Dotted
    """The parser's class."""
    recognises: tuple[str, ...]
    """Regular expressions. ``auto`` selects the highest-ranked parser with a match in the model's chat template,
    because the template shows the format that the model was trained on.
    """
    special_tokens: tuple[str, ...] = ()
    """Markers of the format that may be special tokens of the tokenizer. Special tokens are not part of the text
    unless a parser lists them here.
    """


class ToolParserCard(ParserCard):
    """A format of tool calls. ``target`` is a :class:`dovetail.api.ToolParser`."""

    kind: ClassVar[str] = "tool_parser"


class ReasoningParserCard(ParserCard):
    """A format of reasoning. ``target`` is a :class:`dovetail.api.ReasoningParser`."""

    kind: ClassVar[str] = "reasoning_parser"

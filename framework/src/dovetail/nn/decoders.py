"""What nearly all decoders are: an embedding, blocks of attention and an MLP, a norm and a head.

A model's package makes the parts of a block, and says what is different about the rest. T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.api.config import ModelConfig
from dovetail.api.decoder_config import DecoderConfig
from dovetail.nn.blocks import GatedMLP, SelfAttention
from dovetail.nn.context import Bias, Context, Norm
from dovetail.nn.layers import Linear, RMSNorm
from dovetail.nn.model import CausalLM, PoolingModel
from dovetail.nn.rotary import LayerRotary, Rope
from dovetail.nn.step import Step
from dovetail.nn.weights import DeferredNorm, WeightKernel


class PreNormBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``: ``[T, C]`` → ``[T, C]``, with the residual as a separate
    tensor.

    Args:
        attention: takes ``(x, rope, step)``, such as :class:`dovetail.nn.SelfAttention`.
        mlp: takes x.
        attended_norm, out_norm: of what attention and MLP give, before it is added; None for no such norm.
        multiplier: on what attention and MLP give.
    """

    def __init__(
        self,
        attention_norm: Norm,
        attention: nn.Module,
        mlp_norm: Norm,
        mlp: nn.Module,
        *,
        attended_norm: nn.Module | None = None,
        out_norm: nn.Module | None = None,
        multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.attended_norm = attended_norm
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.out_norm = out_norm
        self.multiplier = multiplier
        # Tuples, so that torch does not register what is in them a second time.
        self._next: tuple[PreNormBlock, ...] = ()
        self._products: tuple[Linear, ...] = ()
        if (
            (attended_norm, out_norm, multiplier) == (None, None, 1.0)
            and type(attention_norm) is type(mlp_norm) is RMSNorm
            and type(attention) is SelfAttention
            and type(mlp) is GatedMLP
        ):
            self._products = (attention.qkv, attention.out, mlp.gate_up, mlp.down)

    def come_before(self, block: PreNormBlock) -> None:
        """Tell it the next block, whose first norm it may leave to that one's product."""
        self._next = (block,)

    def defers(self, tokens: int) -> bool:
        """Whether norms between its products are left to those, with so many tokens."""
        if not self._products or not all(layer.defers(tokens) for layer in self._products):
            return False
        return len({type(layer.kernels[0]) for layer in self._products}) == 1

    def forward(
        self, x: Tensor | DeferredNorm, residual: Tensor | None, rope: Rope | None, step: Step
    ) -> tuple[Tensor | DeferredNorm, Tensor]:
        if isinstance(x, DeferredNorm) or self.defers(x.shape[0]):
            return self._forward_deferring(x, residual, rope, step)
        x, residual = add(self.attention_norm, x, residual)
        x, residual = self.mlp_norm.add(self._finish(self.attention(x, rope, step), self.attended_norm), residual)
        return self._finish(self.mlp(x), self.out_norm), residual

    def _forward_deferring(
        self, x: Tensor | DeferredNorm, residual: Tensor | None, rope: Rope | None, step: Step
    ) -> tuple[Tensor | DeferredNorm, Tensor]:
        if isinstance(x, DeferredNorm):
            residual = x.total
        else:
            x, residual = add(self.attention_norm, x, residual)
        assert isinstance(self.attention, SelfAttention)
        assert isinstance(self.mlp_norm, RMSNorm)
        summed = self.attention.add(x, rope, step, residual, self.mlp_norm)
        for block in self._next:
            if block.defers(summed.total.shape[0]) and block.kernel_class is self.kernel_class:
                assert isinstance(self.mlp, GatedMLP)
                assert isinstance(block.attention_norm, RMSNorm)
                x = self.mlp.add(summed, block.attention_norm)
                return x, x.total
        return self.mlp(summed), summed.total

    @property
    def kernel_class(self) -> type[WeightKernel]:
        """Of its products, where it :meth:`defers`."""
        return type(self._products[0].kernels[0])

    def _finish(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        x = x if norm is None else norm(x)
        return x if self.multiplier == 1.0 else x * self.multiplier


class PostNormBlock(nn.Module):
    """``x + norm(attention(x))``, then ``x + norm(mlp(x))``; arguments as in :class:`PreNormBlock`."""

    def __init__(self, attention: nn.Module, attention_norm: Norm, mlp: nn.Module, mlp_norm: Norm) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = attention_norm
        self.mlp = mlp
        self.mlp_norm = mlp_norm

    def forward(self, x: Tensor, residual: Tensor | None, rope: Rope | None, step: Step) -> tuple[Tensor, Tensor]:
        x = x if residual is None else x + residual
        x = x + self.attention_norm(self.attention(x, rope, step))
        return self.mlp_norm(self.mlp(x)), x


class ParallelBlock(nn.Module):
    """``x + attention(norm(x)) + mlp(norm(x))``; arguments as in :class:`PreNormBlock`.

    Args:
        mlp_norm: of what the MLP reads; None if it reads what attention does.
    """

    def __init__(self, norm: Norm, attention: nn.Module, mlp: nn.Module, mlp_norm: Norm | None = None) -> None:
        super().__init__()
        self.norm = norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(self, x: Tensor, residual: Tensor | None, rope: Rope | None, step: Step) -> tuple[Tensor, Tensor]:
        x, residual = add(self.norm, x, residual)
        read = x if self.mlp_norm is None else self.mlp_norm(residual)
        return self.attention(x, rope, step) + self.mlp(read), residual


def add(norm: Norm, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """``x + residual``, and its norm before it: what the first norm of a block does."""
    return (norm(x), x) if residual is None else norm.add(x, residual)


@dataclass(frozen=True)
class DecoderNames:
    """Checkpoint names of a decoder's parts; all but the head's are below ``prefix``.

    Attributes:
        others: further names below the prefix, of what a subclass adds beside embedding, layers and norm.
    """

    prefix: str = "model"
    embedding: str = "embed_tokens"
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"
    others: tuple[str, ...] = ()

    @property
    def below(self) -> tuple[str, ...]:
        """All names below the prefix."""
        return (self.embedding, self.layers, self.norm, *self.others)


class Decoder(PoolingModel):
    """A decoder of equal blocks without a head, for embeddings. A subclass calls this with what makes its blocks and
    norms:

        class MyModel(Decoder):
            def __init__(self, c: MyConfig, ctx: Context) -> None:
                super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))

        class MyForCausalLM(CausalDecoder, MyModel): ...

    Attributes:
        names: class attribute, for checkpoints with others. Those of a decoder without its head lack the prefix, and
            are read, too.
        further_layers: class attribute, whether checkpoints may have layers past the last one. They predict further
            tokens (multi-token prediction; Gloeckle et al., 2024), and are left out.

    Args:
        block: makes a block from its checkpoint name, such as ``model.layers.0``, and its index. A block takes
            ``(x, residual, rope, step)`` and returns the new x and residual, whose sum is the block's output.
        norm: makes the last norm, from its checkpoint name and its number of channels.
        embedding_multiplier: on the embedding.
        head_bias: the head, of a model that has one, has a bias; see :data:`dovetail.nn.Bias`.
        softcap: of the logits; see :class:`dovetail.nn.Head`.
        logits_multiplier: on the logits.
    """

    names: ClassVar[DecoderNames] = DecoderNames()
    further_layers: ClassVar[bool] = False

    def __init__(
        self,
        c: DecoderConfig,
        ctx: Context,
        block: Callable[[str, int], nn.Module],
        norm: Callable[[str, int], Norm],
        *,
        embedding_multiplier: float = 1.0,
        head_bias: Bias = False,
        softcap: float | None = None,
        logits_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        prefix = f"{self.names.prefix}."
        self.embedding = ctx.embedding(f"{prefix}{self.names.embedding}", c.vocab_size, c.hidden_size)
        self.rotary = LayerRotary(c, max_tokens=ctx.max_tokens, ops=ctx.ops)
        layers = range(c.num_hidden_layers)
        self.rope_types = [c.layer_types[layer] if c.has_rope(layer) else None for layer in layers]
        self.blocks = nn.ModuleList(block(f"{prefix}{self.names.layers}.{layer}", layer) for layer in layers)
        for one, after in pairwise(self.blocks):
            if type(one) is type(after) is PreNormBlock:
                one.come_before(after)
        if self.further_layers:
            ctx.ignore_layers(f"{prefix}{self.names.layers}", c.num_hidden_layers)
        self.norm = norm(f"{prefix}{self.names.norm}", c.hidden_size)
        self.embedding_multiplier = embedding_multiplier
        self.logits_multiplier = logits_multiplier
        self.make_head(c, ctx, bias=head_bias, softcap=softcap)

    def expect_rope_factors(self, c: DecoderConfig, ctx: Context) -> None:
        """Expect the tensors in which some containers store what divides the frequencies, of a model whose layers have one
        rotary embedding: ``rope_freqs``, which may lack, for the scaling ``llama3``; the two lists of a ``longrope`` whose
        parameters have none.
        """
        shape, rope = (c.rotary_dim(0) // 2,), c.rope_for(0)
        ctx.vector("rope_freqs.weight", shape, self.rotary.divide_frequencies, required=False, dtype=torch.float32)
        if rope.rope_type == "longrope" and rope.long_factor is None:
            original = rope.original_max_position_embeddings or c.max_position_embeddings
            used, other = ("long", "short") if ctx.max_tokens > original else ("short", "long")
            ctx.vector(f"rope_factors_{used}.weight", shape, self.rotary.divide_frequencies, dtype=torch.float32)
            ctx.ignore(f"rope_factors_{other}.weight")

    def make_head(self, c: ModelConfig, ctx: Context, *, bias: Bias, softcap: float | None) -> None:
        """Make what follows the last norm: nothing here, and a head that the checkpoint has is left out."""
        ctx.ignore(f"{self.names.head}.weight", f"{self.names.head}.bias")

    def rename(self, name: str) -> str | None:
        missing = name.partition(".")[0] in self.names.below
        return f"{self.names.prefix}.{name}" if missing else name

    def embed(self, step: Step) -> Tensor:
        """What the first block reads, ``[T, C]``."""
        x: Tensor = self.embedding(step.tokens)
        return step.merge_images(x if self.embedding_multiplier == 1.0 else x * self.embedding_multiplier)

    def forward(self, step: Step) -> Tensor:
        x = self.embed(step)
        ropes = self.rotary(step.positions, x.dtype, step.rope_positions)
        residual: Tensor | None = None
        for index, (kind, block) in enumerate(zip(self.rope_types, self.blocks, strict=True)):
            made = block(x, residual, None if kind is None else ropes[kind], step)
            if type(made) is not tuple:
                raise TypeError(
                    f"block {index}, a {type(block).__name__}, returned {type(made).__name__}, wanted (x, residual)"
                )
            x, residual = made
        assert residual is not None
        out: Tensor = self.norm.add(x, residual)[0]
        return out


class CausalDecoder(Decoder, CausalLM):
    """A decoder with a head for the vocabulary: by itself, with the arguments of :class:`Decoder`, or put before one."""

    def make_head(self, c: ModelConfig, ctx: Context, *, bias: Bias, softcap: float | None) -> None:
        tied = self.embedding if c.tie_word_embeddings else None
        self.head = ctx.head(self.names.head, c.hidden_size, c.vocab_size, tied=tied, bias=bias, softcap=softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden)
        return logits if self.logits_multiplier == 1.0 else logits * self.logits_multiplier


class SequenceClassifier(Decoder):
    """A decoder with a head for the labels of a text, which reads the last token's hidden state:

        class MyForSequenceClassification(SequenceClassifier, MyModel): ...

    With ``classifier_token_ids`` in the configuration there is no such head, and the labels' logits are those of tokens in
    the language model's head, or of two tokens their difference; see ``classifier_method`` of
    :class:`dovetail.api.ModelConfig`. So rerankers are read that were trained to answer with one of two words
    (Zhang et al., 2025).

    Attributes:
        classifier: class attribute, the checkpoint name of that head.
    """

    classifier: ClassVar[str] = "score"

    def make_head(self, c: ModelConfig, ctx: Context, *, bias: Bias, softcap: float | None) -> None:
        self.of_tokens = bool(c.classifier_token_ids)
        self.two_way = c.classifier_method == "from_2_way_softmax"
        if self.of_tokens:
            tied = self.embedding if c.tie_word_embeddings else None
            sizes = self.names.head, c.hidden_size, c.vocab_size
            self.score: Linear = ctx.head(*sizes, tied=tied, bias=bias, softcap=softcap, tokens=c.classifier_token_ids)
        else:
            super().make_head(c, ctx, bias=bias, softcap=softcap)
            self.score = ctx.linear(self.classifier, c.hidden_size, c.num_labels)

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        out: Tensor = self.score(pooled)
        if not self.of_tokens:
            return out
        out = out if self.logits_multiplier == 1.0 else out * self.logits_multiplier
        return out[:, 1:] - out[:, :1] if self.two_way else out

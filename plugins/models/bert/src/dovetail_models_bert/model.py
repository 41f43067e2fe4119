"""BERT and RoBERTa: post-norm blocks of attention in both directions and an MLP, with learned positions (Devlin et al.,
2019); and Nomic's, with rotary embeddings and a gated MLP (Nussbaum et al., 2024).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dovetail.nn import MLP, Context, GatedMLP, LayerNorm, LayerRotary, PoolingModel, RMSNorm, Rope, SelfAttention, Step
from dovetail_models_bert.config import BertConfig, NomicBertConfig, RobertaConfig

Norm = LayerNorm | RMSNorm
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Ends of names in the first checkpoints."""


class EncoderBlock(nn.Module):
    """``x = norm(x + attention(x))``, then ``norm(x + mlp(x))``: ``[T, C]`` → ``[T, C]``."""

    def __init__(self, attention: SelfAttention, attended_norm: Norm, mlp: nn.Module, out_norm: Norm) -> None:
        super().__init__()
        self.attention = attention
        self.attended_norm = attended_norm
        self.mlp = mlp
        self.out_norm = out_norm

    def forward(self, x: Tensor, rope: Rope | None, step: Step) -> Tensor:
        x = self.attended_norm.add(self.attention(x, rope, step), x)[0]
        return self.out_norm.add(self.mlp(x), x)[0]


def make_bert_block(c: BertConfig, ctx: Context, layer: int) -> EncoderBlock:
    name, norm = f"encoder.layer.{layer}", partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.attention",
        layer,
        causal=False,
        bias=True,
        out_bias=True,
        names=("self.query", "self.key", "self.value", "output.dense"),
    )
    mlp = MLP(
        ctx,
        name,
        c.hidden_size,
        c.intermediate_size,
        activation=c.hidden_act,
        names=("intermediate.dense", "output.dense"),
    )
    return EncoderBlock(
        attention,
        norm(f"{name}.attention.output.LayerNorm", c.hidden_size),
        mlp,
        norm(f"{name}.output.LayerNorm", c.hidden_size),
    )


def make_nomic_block(c: NomicBertConfig, ctx: Context, layer: int) -> EncoderBlock:
    name, norm = f"encoder.layers.{layer}", partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.attn",
        layer,
        causal=False,
        bias=c.qkv_proj_bias,
        out_bias=c.qkv_proj_bias,
        interleaved=c.rotary_emb_interleaved,
        names=("Wqkv", "out_proj"),
    )
    mlp = GatedMLP(
        ctx,
        f"{name}.mlp",
        c.hidden_size,
        c.intermediate_size,
        activation=c.hidden_act,
        bias=c.mlp_fc1_bias,
        names=("fc12", "fc11", "fc2"),
    )
    return EncoderBlock(attention, norm(f"{name}.norm1", c.hidden_size), mlp, norm(f"{name}.norm2", c.hidden_size))


class BertModel(PoolingModel):
    """All tokens are of the first type: prompts are single texts."""

    prefix = "bert."
    leaves_out: tuple[str, ...] = ("cls.", "pooler.", "classifier.")
    """Heads of checkpoints that this model does not use."""

    def __init__(self, c: BertConfig, ctx: Context) -> None:
        super().__init__()
        name = "embeddings"
        self.words = ctx.embedding(f"{name}.word_embeddings", c.vocab_size, c.hidden_size)
        self.types = ctx.embedding(f"{name}.token_type_embeddings", c.type_vocab_size, c.hidden_size, cut=False)
        self.positions = ctx.embedding(
            f"{name}.position_embeddings", c.max_position_embeddings, c.hidden_size, cut=False
        )
        self.norm = ctx.norm(f"{name}.LayerNorm", c.hidden_size, c.layer_norm_eps, kind="layer", bias=True)
        self.blocks = nn.ModuleList(make_bert_block(c, ctx, layer) for layer in range(c.num_hidden_layers))
        self.position_offset = c.position_offset

    def rename(self, name: str) -> str | None:
        """Checkpoints with a head have a prefix, those without have none."""
        name = name.removeprefix(self.prefix)
        for old, new in OLD_NAMES.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        return None if name.startswith(self.leaves_out) else name

    def forward(self, step: Step) -> Tensor:
        types = self.types(torch.zeros_like(step.tokens))
        x = self.norm(self.words(step.tokens) + types + self.positions(step.positions + self.position_offset))
        for block in self.blocks:
            x = block(x, None, step)
        return x


class BertForSequenceClassification(BertModel):
    leaves_out = ("cls.",)

    def __init__(self, c: BertConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.pooler = ctx.linear("pooler.dense", c.hidden_size, c.hidden_size, bias=True)
        self.classifier = ctx.linear("classifier", c.hidden_size, c.num_labels, bias=True)

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.tanh(self.pooler(pooled)))
        return logits


class RobertaModel(BertModel):
    """BERT's layers; positions are numbered from another one (Liu et al., 2019; XLM-R: Conneau et al., 2020)."""

    prefix = "roberta."
    leaves_out: tuple[str, ...] = ("lm_head.", "pooler.", "classifier.")


class RobertaForSequenceClassification(RobertaModel):
    leaves_out = ("lm_head.", "pooler.")

    def __init__(self, c: RobertaConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.dense = ctx.linear("classifier.dense", c.hidden_size, c.hidden_size, bias=True)
        self.out = ctx.linear("classifier.out_proj", c.hidden_size, c.num_labels, bias=True)

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.tanh(self.dense(pooled)))
        return logits


class NomicBertModel(PoolingModel):
    """All tokens are of the first type, as in :class:`BertModel`."""

    def __init__(self, c: NomicBertConfig, ctx: Context) -> None:
        super().__init__()
        self.words = ctx.embedding("embeddings.word_embeddings", c.vocab_size, c.hidden_size)
        self.types = ctx.embedding("embeddings.token_type_embeddings", c.type_vocab_size, c.hidden_size, cut=False)
        self.norm = ctx.norm("emb_ln", c.hidden_size, c.layer_norm_eps, kind="layer", bias=True)
        self.rotary = LayerRotary(c, max_tokens=ctx.max_tokens, ops=ctx.ops)
        self.rope_types = c.layer_types
        self.blocks = nn.ModuleList(make_nomic_block(c, ctx, layer) for layer in range(c.num_hidden_layers))

    def rename(self, name: str) -> str | None:
        """Checkpoints with a head have a prefix, those without have none."""
        name = name.removeprefix("nomic_bert.").removeprefix("bert.")
        return None if name.startswith(("cls.", "pooler.", "classifier.")) else name

    def forward(self, step: Step) -> Tensor:
        x: Tensor = self.norm(self.words(step.tokens) + self.types(torch.zeros_like(step.tokens)))
        ropes = self.rotary(step.positions, x.dtype)
        for kind, block in zip(self.rope_types, self.blocks, strict=True):
            x = block(x, ropes[kind], step)
        return x

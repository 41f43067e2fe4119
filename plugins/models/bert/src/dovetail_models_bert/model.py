"""BERT and RoBERTa: post-norm blocks of attention in both directions and an MLP, with learned positions (Devlin et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dovetail.nn import MLP, Context, PoolingModel, SelfAttention, Step
from dovetail_models_bert.config import BertConfig, RobertaConfig

OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Ends of names in the first checkpoints."""


class BertBlock(nn.Module):
    """One layer: ``[T, C]`` → ``[T, C]``."""

    def __init__(self, c: BertConfig, ctx: Context, layer: int) -> None:
        super().__init__()
        name = f"encoder.layer.{layer}"
        self.attention = SelfAttention(
            ctx,
            f"{name}.attention",
            channels=c.hidden_size,
            num_heads=c.num_attention_heads,
            num_kv_heads=c.num_attention_heads,
            head_dim=c.head_dim,
            causal=False,
            bias=True,
            out_bias=True,
            names=("self.query", "self.key", "self.value", "output.dense"),
        )
        self.attended_norm = ctx.norm(
            f"{name}.attention.output.LayerNorm", c.hidden_size, c.layer_norm_eps, kind="layer", bias=True
        )
        self.mlp = MLP(
            ctx,
            name,
            c.hidden_size,
            c.intermediate_size,
            activation=c.hidden_act,
            names=("intermediate.dense", "output.dense"),
        )
        self.out_norm = ctx.norm(f"{name}.output.LayerNorm", c.hidden_size, c.layer_norm_eps, kind="layer", bias=True)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        x = self.attended_norm.add(self.attention(x, None, step), x)[0]
        return self.out_norm.add(self.mlp(x), x)[0]


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
        self.blocks = nn.ModuleList(BertBlock(c, ctx, layer) for layer in range(c.num_hidden_layers))
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
            x = block(x, step)
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

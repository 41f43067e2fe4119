"""ModernBERT: pre-norm blocks with rotary embeddings and gated MLPs, of which most see a window (Warner et al., 2024)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from dovetail.nn import Context, Decoder, DecoderNames, GatedMLP, PreNormBlock, SelfAttention, Step
from dovetail_models_bert.config import ModernBertConfig


def make_block(c: ModernBertConfig, ctx: Context, norm: Any, name: str, layer: int) -> PreNormBlock:
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.attn",
        layer,
        causal=False,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        names=("Wqkv", "Wo"),
    )
    mlp = GatedMLP(
        ctx,
        f"{name}.mlp",
        c.hidden_size,
        c.intermediate_size,
        activation=c.hidden_act,
        bias=c.mlp_bias,
        names=("Wi", "Wo"),
    )
    # The first reads the embedding, which has a norm of its own.
    attention_norm: Any = norm(f"{name}.attn_norm", c.hidden_size) if layer else nn.Identity()
    return PreNormBlock(attention_norm, attention, norm(f"{name}.mlp_norm", c.hidden_size), mlp)


class ModernBertModel(Decoder):
    names = DecoderNames(
        embedding="embeddings.tok_embeddings", norm="final_norm", head="decoder", others=("embeddings",)
    )

    def __init__(self, c: ModernBertConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.norm_eps, kind="layer", bias=c.norm_bias)
        super().__init__(c, ctx, partial(make_block, c, ctx, norm), norm)
        self.embedding_norm = norm(f"{self.names.prefix}.embeddings.norm", c.hidden_size)
        self.make_classifier(c, ctx)

    def make_classifier(self, c: ModernBertConfig, ctx: Context) -> None:
        """Make the head for labels: nothing here, and one that the checkpoint has is left out."""
        ctx.ignore(*(f"head.{part}" for part in ("dense.weight", "dense.bias", "norm.weight", "norm.bias")))

    def embed(self, step: Step) -> Tensor:
        out: Tensor = self.embedding_norm(super().embed(step))
        return out


class ModernBertForSequenceClassification(ModernBertModel):
    def make_classifier(self, c: ModernBertConfig, ctx: Context) -> None:
        self.dense = ctx.linear("head.dense", c.hidden_size, c.hidden_size, bias=c.classifier_bias)
        self.activation = ctx.ops.activation(c.classifier_activation)
        self.head_norm = ctx.norm("head.norm", c.hidden_size, c.norm_eps, kind="layer", bias=c.norm_bias)
        self.classifier = ctx.linear("classifier", c.hidden_size, c.num_labels, bias=True)

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head_norm(self.activation(self.dense(pooled))))
        return logits

"""Bloom: pre-norm blocks with layer norms and biases, and ALiBi in place of positions (BigScience, 2022)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from dovetail.nn import (
    MLP,
    CausalDecoder,
    Context,
    Decoder,
    DecoderNames,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
    Step,
)
from dovetail_models_bloom.config import BloomConfig


def make_block(c: BloomConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.layer_norm_epsilon, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attention",
        layer,
        bias=True,
        out_bias=True,
        names=("query_key_value", "dense"),
        grouped=True,
    )
    names = ("dense_h_to_4h", "dense_4h_to_h")
    mlp = MLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, names=names)
    return PreNormBlock(norm(f"{name}.input_layernorm"), attention, norm(f"{name}.post_attention_layernorm"), mlp)


class BloomModel(Decoder):
    names = DecoderNames("transformer", "word_embeddings", "h", "ln_f", others=("word_embeddings_layernorm",))

    def __init__(self, c: BloomConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_epsilon, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_block, c, ctx), norm)
        self.embedding_norm = norm("transformer.word_embeddings_layernorm", c.hidden_size)

    def embed(self, step: Step) -> Tensor:
        out: Tensor = self.embedding_norm(super().embed(step))
        return out


class BloomForCausalLM(CausalDecoder, BloomModel): ...


class BloomForSequenceClassification(SequenceClassifier, BloomModel): ...

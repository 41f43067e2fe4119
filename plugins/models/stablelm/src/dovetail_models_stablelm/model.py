"""StableLM: Llama's block with layer norms, and rotary embeddings on a part of each head (Bellagamba et al., 2024). Norms
of queries and keys are of each head by itself, and attention and MLP may read the same norm.
"""

from __future__ import annotations

from functools import partial

from dovetail.nn import (
    CausalDecoder,
    Context,
    Decoder,
    GatedMLP,
    HeadNorms,
    ParallelBlock,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
)
from dovetail_models_stablelm.config import StableLmConfig


def make_block(c: StableLmConfig, ctx: Context, name: str, layer: int) -> PreNormBlock | ParallelBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.layer_norm_eps, kind="layer", bias=True)
    norms = partial(HeadNorms, ctx, head_dim=c.head_dim, eps=c.layer_norm_eps, separate=c.qk_layernorm != "stacked")
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        bias=c.use_qkv_bias,
        qk_norm=norms if c.qk_layernorm else None,
        norm_names=("q_layernorm", "k_layernorm"),
        norm_by="whole",
    )
    mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act)
    first = norm(f"{name}.input_layernorm")
    if c.use_parallel_residual:
        return ParallelBlock(first, attention, mlp)
    return PreNormBlock(first, attention, norm(f"{name}.post_attention_layernorm"), mlp)


class StableLmModel(Decoder):
    def __init__(self, c: StableLmConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_block, c, ctx), norm)


class StableLmForCausalLM(CausalDecoder, StableLmModel): ...


class StableLmForSequenceClassification(SequenceClassifier, StableLmModel): ...

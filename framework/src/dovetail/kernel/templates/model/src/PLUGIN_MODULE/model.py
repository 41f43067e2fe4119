"""A pre-norm decoder: rotary grouped-query attention and a gated MLP.

Every factory of the context takes the name that the tensor has in the checkpoint, so the layers are the table of names.

Letters: T tokens, C channels.
"""

from __future__ import annotations

from dovetail.nn import CausalLM, Context, GatedMLP, LayerRotary, Rope, SelfAttention, Step
from torch import Tensor, nn

from PLUGIN_MODULE.config import PLUGIN_CLASSConfig


class Block(nn.Module):
    """One layer: ``[T, C]`` → ``[T, C]``."""

    def __init__(self, c: PLUGIN_CLASSConfig, ctx: Context, layer: int) -> None:
        super().__init__()
        name = f"model.layers.{layer}"
        self.layer_type = c.layer_types[layer]
        self.attention_norm = ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps)
        self.attention = SelfAttention(
            ctx,
            f"{name}.self_attn",
            channels=c.hidden_size,
            num_heads=c.num_attention_heads,
            num_kv_heads=c.num_key_value_heads,
            head_dim=c.head_dim,
            window=c.window(layer),
        )
        self.mlp_norm = ctx.norm(f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps)
        self.mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size)

    def forward(self, x: Tensor, rope: Rope, step: Step) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, step)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class PLUGIN_CLASSForCausalLM(CausalLM):
    """The whole decoder; loading, quantization, batching and sampling are the engine's."""

    def __init__(self, c: PLUGIN_CLASSConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("model.embed_tokens", c.vocab_size, c.hidden_size)
        self.rotary = LayerRotary(c, max_tokens=ctx.max_tokens)
        self.blocks = nn.ModuleList(Block(c, ctx, i) for i in range(c.num_hidden_layers))
        self.norm = ctx.norm("model.norm", c.hidden_size, c.rms_norm_eps)
        tied = self.embedding if c.tie_word_embeddings else None
        self.head = ctx.head("lm_head", c.hidden_size, c.vocab_size, tied=tied)

    def forward(self, step: Step) -> Tensor:
        x: Tensor = self.embedding(step.tokens)  # [T, C]
        ropes = self.rotary(step.positions, x.dtype)
        for block in self.blocks:
            x = block(x, ropes[block.layer_type], step)
        out: Tensor = self.norm(x)
        return out

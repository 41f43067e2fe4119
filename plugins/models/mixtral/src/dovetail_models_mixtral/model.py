"""Mixtral: Mistral's block with a mixture of experts in place of the MLP (Jiang et al., 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from dovetail.nn import CausalLM, Context, Rope, Rotary, SelfAttention, Step
from dovetail_models_mixtral.config import MixtralConfig


class MixtralExperts(nn.Module):
    """``[T, C]`` → ``[T, C]``: the router's softmax over all experts, and the sum of the best of them."""

    def __init__(self, c: MixtralConfig, ctx: Context, name: str) -> None:
        super().__init__()
        self.top_k = c.num_experts_per_tok
        self.route = ctx.ops.route
        self.gate = ctx.linear(f"{name}.gate", c.hidden_size, c.num_local_experts)
        prefix = f"{name}.experts"
        names = [(f"{prefix}.{e}.w1", f"{prefix}.{e}.w3", f"{prefix}.{e}.w2") for e in range(c.num_local_experts)]
        self.experts = ctx.experts(names, c.hidden_size, c.intermediate_size, self.top_k, activation=c.hidden_act)
        # As transformers has them in memory since its version 5, and GGUF files in three stacks.
        ctx.stored_together(f"{prefix}.gate_up_proj", [[gate, up] for gate, up, _ in names])
        ctx.stored_together(f"{prefix}.down_proj", [[down] for _, _, down in names])
        for index, part in enumerate(("w1", "w3", "w2")):
            ctx.stored_together(f"{prefix}.{part}", [[expert[index]] for expert in names])

    def forward(self, x: Tensor) -> Tensor:
        ids, weights = self.route(self.gate(x), self.top_k)
        out: Tensor = self.experts(x, ids, weights)
        return out


class MixtralBlock(nn.Module):
    """One layer: ``[T, C]`` → ``[T, C]``, with the residual as a separate tensor."""

    def __init__(self, c: MixtralConfig, ctx: Context, layer: int) -> None:
        super().__init__()
        name = f"model.layers.{layer}"
        self.input_norm = ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps)
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
        self.experts = MixtralExperts(c, ctx, f"{name}.block_sparse_moe")

    def forward(self, x: Tensor, residual: Tensor | None, rope: Rope, step: Step) -> tuple[Tensor, Tensor]:
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x, residual = self.mlp_norm.add(self.attention(x, rope, step), residual)
        return self.experts(x), residual


class MixtralForCausalLM(CausalLM):
    def __init__(self, c: MixtralConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("model.embed_tokens", c.vocab_size, c.hidden_size)
        rope = c.rope_for(0)
        self.rotary = Rotary(c.rotary_dim(0), rope, max_position=c.max_position_embeddings, max_tokens=ctx.max_tokens)
        self.blocks = nn.ModuleList(MixtralBlock(c, ctx, i) for i in range(c.num_hidden_layers))
        self.norm = ctx.norm("model.norm", c.hidden_size, c.rms_norm_eps)
        tied = self.embedding if c.tie_word_embeddings else None
        self.head = ctx.head("lm_head", c.hidden_size, c.vocab_size, tied=tied)

    def rename(self, name: str) -> str | None:
        """``mlp`` is what transformers calls the mixture since its version 5."""
        return name.replace(".mlp.", ".block_sparse_moe.")

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        rope = self.rotary(step.positions, x.dtype)
        residual: Tensor | None = None
        for block in self.blocks:
            x, residual = block(x, residual, rope, step)
        assert residual is not None
        return self.norm.add(x, residual)[0]

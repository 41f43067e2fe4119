"""GPT-2: pre-norm blocks of attention and an MLP, with biases, layer norms and learned positions (Radford et al.,
2019).
"""

from __future__ import annotations

from torch import Tensor, nn

from dovetail.nn import MLP, CausalLM, Context, SelfAttention, Step
from dovetail_models_gpt2.config import GPT2Config


class GPT2Block(nn.Module):
    """One layer: ``[T, C]`` → ``[T, C]``, with the residual as a separate tensor."""

    def __init__(self, c: GPT2Config, ctx: Context, layer: int) -> None:
        super().__init__()
        name = f"h.{layer}"
        self.input_norm = ctx.norm(f"{name}.ln_1", c.hidden_size, c.layer_norm_epsilon, kind="layer", bias=True)
        self.attention = SelfAttention(
            ctx,
            f"{name}.attn",
            channels=c.hidden_size,
            num_heads=c.num_attention_heads,
            num_kv_heads=c.num_attention_heads,
            head_dim=c.head_dim,
            bias=True,
            out_bias=True,
            scale=c.scale(layer),
            names=("c_attn", "c_proj"),
            transposed=True,
        )
        self.mlp_norm = ctx.norm(f"{name}.ln_2", c.hidden_size, c.layer_norm_epsilon, kind="layer", bias=True)
        self.mlp = MLP(
            ctx,
            f"{name}.mlp",
            c.hidden_size,
            c.intermediate_size,
            activation=c.hidden_act,
            names=("c_fc", "c_proj"),
            transposed=True,
        )

    def forward(self, x: Tensor, residual: Tensor | None, step: Step) -> tuple[Tensor, Tensor]:
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x, residual = self.mlp_norm.add(self.attention(x, None, step), residual)
        return self.mlp(x), residual


class GPT2LMHeadModel(CausalLM):
    def __init__(self, c: GPT2Config, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("wte", c.vocab_size, c.hidden_size)
        self.positions = ctx.embedding("wpe", c.max_position_embeddings, c.hidden_size, cut=False)
        self.blocks = nn.ModuleList(GPT2Block(c, ctx, layer) for layer in range(c.num_hidden_layers))
        self.norm = ctx.norm("ln_f", c.hidden_size, c.layer_norm_epsilon, kind="layer", bias=True)
        self.head = ctx.head(
            "lm_head", c.hidden_size, c.vocab_size, tied=self.embedding if c.tie_word_embeddings else None
        )

    def rename(self, name: str) -> str | None:
        """Checkpoints of the model without its head have no prefix."""
        return name.removeprefix("transformer.")

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens) + self.positions(step.positions)
        residual: Tensor | None = None
        for block in self.blocks:
            x, residual = block(x, residual, step)
        assert residual is not None
        return self.norm.add(x, residual)[0]

"""LLaVA: hidden states of a CLIP tower (Radford et al., 2021), projected to where a Llama has the embeddings of tokens
(Liu et al., 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dovetail.nn import (
    MLP,
    CausalDecoder,
    Context,
    DecoderNames,
    GatedMLP,
    PatchEmbedding,
    PreNormBlock,
    SelfAttention,
    TowerAttention,
    TowerBlock,
)
from dovetail_models_llava.config import ClipConfig, LlavaConfig

TOWER = "vision_tower.vision_model"


class ClipTower(nn.Module):
    """The hidden states of an image after some of the layers: ``[3, size, size]`` → ``[N, C]`` each, the class first.

    Args:
        taken: after how many layers, one or several times. Later layers are left out.
    """

    def __init__(self, c: ClipConfig, ctx: Context, name: str, taken: tuple[int, ...]) -> None:
        super().__init__()
        channels, rows = c.hidden_size, c.num_patches + 1
        norm = partial(ctx.norm, channels=channels, eps=c.layer_norm_eps, kind="layer", bias=True)
        self.patches = PatchEmbedding(ctx, f"{name}.embeddings.patch_embedding", channels, c.patch_size, bias=False)
        self.class_embedding = self.positions = torch.empty(0)
        ctx.vector(f"{name}.embeddings.class_embedding", (channels,), partial(setattr, self, "class_embedding"))
        ctx.vector(
            f"{name}.embeddings.position_embedding.weight", (rows, channels), partial(setattr, self, "positions")
        )
        self.first_norm = norm(f"{name}.pre_layrnorm")
        self.taken = taken
        self.blocks = nn.ModuleList()
        for layer in range(max(taken)):
            own = f"{name}.encoder.layers.{layer}"
            attention = TowerAttention(ctx, f"{own}.self_attn", channels, c.num_attention_heads)
            mlp = MLP(ctx, f"{own}.mlp", channels, c.intermediate_size, activation=c.hidden_act, names=("fc1", "fc2"))
            self.blocks.append(TowerBlock(norm(f"{own}.layer_norm1"), attention, norm(f"{own}.layer_norm2"), mlp))
        ctx.ignore_layers(f"{name}.encoder.layers", max(taken))
        ctx.ignore("vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias", "embeddings.position_ids")

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x = torch.cat([self.class_embedding[None], self.patches(pixels)]) + self.positions
        x = self.first_norm(x)
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1]))
        return [states[layer] for layer in self.taken]


def make_block(c: LlavaConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    return PreNormBlock(
        ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps),
        SelfAttention.from_config(c, ctx, f"{name}.self_attn", layer, bias=c.attention_bias, out_bias=c.attention_bias),
        ctx.norm(f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, bias=c.mlp_bias),
    )


class LlavaForConditionalGeneration(CausalDecoder):
    names = DecoderNames(prefix="language_model.model", head="language_model.lm_head")

    def __init__(self, c: LlavaConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))
        tower = c.vision_config
        self.image_elements = (tower.num_patches + 1) * (8 * tower.hidden_size + 2 * tower.intermediate_size)
        self.tower = ClipTower(c.vision_config, ctx, TOWER, c.feature_layers)
        self.skipped = int(c.vision_feature_select_strategy == "default")
        name, bias = "multi_modal_projector", c.multimodal_projector_bias
        seen = len(c.feature_layers) * c.vision_config.hidden_size
        self.first = ctx.linear(f"{name}.linear_1", seen, c.hidden_size, bias=bias)
        self.second = ctx.linear(f"{name}.linear_2", c.hidden_size, c.hidden_size, bias=bias)
        self.activation = ctx.ops.activation(c.projector_hidden_act)

    def rename(self, name: str) -> str | None:
        """Published files are named as transformers named its modules before version 5, others as since then."""
        if name.startswith("lm_head."):
            return f"language_model.{name}"
        name = name.replace("model.language_model.", "language_model.model.", 1)
        name = name.removeprefix("model.")
        if name.startswith("vision_tower.") and not name.startswith(TOWER):
            name = name.replace("vision_tower.", f"{TOWER}.", 1)
        return name

    def embed_image(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """
        Args:
            arrays: ``pixels``, float32 ``[3, size, size]``.
        """
        seen = torch.cat(self.tower(arrays["pixels"]), -1)[self.skipped :]
        out: Tensor = self.second(self.activation(self.first(seen)))
        return out

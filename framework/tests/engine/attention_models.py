"""A tiny model whose layers ask for any feature of attention, and the same computed plainly: one sequence at a time, every
score written out.

Letters: T tokens, H query heads, K key-value heads, D head dimension, V channels of a value, C channels, R of a latent row.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dovetail import builtin
from dovetail.api import (
    AttentionCard,
    AttentionRequirement,
    Checkpoint,
    LazyTensor,
    LoaderCard,
    ModelCard,
    ModelConfig,
    PlatformCard,
)
from dovetail.engine.args import EngineArgs
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan import Plan
from dovetail.kernel.resolve import resolve
from dovetail.nn import Attention, AttentionSpec, CausalLM, Context, PoolingModel, Step
from dovetail.testing import ReferenceAttention, ReferencePlatform, make_registry

C, H, K, D = 24, 4, 2, 8
R, ROPE, NOPE, LATENT_V = 16, 4, 8, 6
"""Of latent layers: a row is R + ROPE channels, of which NOPE and LATENT_V of each head are projections of R."""
VOCABULARY, LONGEST, LABELS = 61, 96, 3


def spec_of(entry: Mapping[str, Any]) -> AttentionSpec:
    """The attention of a layer that the configuration describes so."""
    numbers = {key: value for key, value in entry.items() if key != "source"}
    if "alibi_slopes" in numbers:
        numbers["alibi_slopes"] = tuple(numbers["alibi_slopes"])
    if entry.get("latent"):
        return AttentionSpec(H, 1, R + ROPE, (NOPE + ROPE) ** -0.5, value_dim=R, **numbers)
    return AttentionSpec(H, K, D, D**-0.5, shared_cache="source" in entry, **numbers)


class LayersConfig(ModelConfig):
    """``layers`` holds the keys of :class:`AttentionSpec`, and ``source``, the number of the layer whose cache is read."""

    layers: list[dict[str, Any]]
    max_position_embeddings: int = LONGEST

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        specs = map(spec_of, self.layers)
        return tuple(
            dict.fromkeys(
                AttentionRequirement(features=spec.features, head_dim=spec.head_dim, value_dim=spec.values)
                for spec in specs
            )
        )


class Secretive(LayersConfig):
    """Does not announce what its last layer asks for."""

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return self.model_copy(update={"layers": self.layers[:-1]}).announce()

    def announce(self) -> tuple[AttentionRequirement, ...]:
        return super().attention_requirements()


class Layer(nn.Module):
    def __init__(self, ctx: Context, name: str, entry: Mapping[str, Any], source: Attention | None) -> None:
        super().__init__()
        self.spec = spec = spec_of(entry)
        self.norm = ctx.norm(f"{name}.norm", C, 1e-5)
        self.q = ctx.linear(f"{name}.q", C, H * D)
        if source is None:
            self.k = ctx.linear(f"{name}.k", C, K * D)
            self.v = ctx.linear(f"{name}.v", C, K * spec.values)
        self.out = ctx.linear(f"{name}.out", H * spec.values, C)
        self.attention = ctx.attention(spec, source=source, sinks=f"{name}.sinks" if spec.sinks else None)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        h = self.norm(x)
        k = v = None
        if not self.spec.shared_cache:
            k, v = self.k(h).unflatten(-1, (K, D)), self.v(h).unflatten(-1, (K, self.spec.values))
        attended = self.attention(self.q(h).unflatten(-1, (H, D)), k, v, step)
        return x + self.out(attended.flatten(-2))


class LatentLayer(nn.Module):
    """DeepSeek-V2's attention with absorbed projections: queries are turned into the space of latent rows."""

    up_keys: Tensor
    up_values: Tensor

    def __init__(self, ctx: Context, name: str, entry: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = ctx.norm(f"{name}.norm", C, 1e-5)
        self.q = ctx.linear(f"{name}.q", C, H * (NOPE + ROPE))
        self.row = ctx.linear(f"{name}.row", C, R + ROPE)
        ctx.vector(f"{name}.up_keys", (H, NOPE, R), partial(setattr, self, "up_keys"))
        ctx.vector(f"{name}.up_values", (H, LATENT_V, R), partial(setattr, self, "up_values"))
        self.out = ctx.linear(f"{name}.out", H * LATENT_V, C)
        self.attention = ctx.attention(spec_of(entry))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        h = self.norm(x)
        plain, turned = self.q(h).unflatten(-1, (H, NOPE + ROPE)).split((NOPE, ROPE), -1)
        q = torch.cat([torch.einsum("thn,hnr->thr", plain, self.up_keys), turned], -1)  # [T, H, R + ROPE]
        attended = self.attention(q, self.row(h)[:, None], None, step)  # [T, H, R]
        return x + self.out(torch.einsum("thr,hvr->thv", attended, self.up_values).flatten(-2))


class Encoder(PoolingModel):
    """With a head for labels."""

    def __init__(self, c: LayersConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("embedding", VOCABULARY, C)
        self.positions = ctx.embedding("positions", LONGEST, C)
        self.layers = nn.ModuleList()
        for number, entry in enumerate(c.layers):
            name = f"layers.{number}"
            source = self.layers[entry["source"]].attention if "source" in entry else None
            self.layers.append(
                LatentLayer(ctx, name, entry) if entry.get("latent") else Layer(ctx, name, entry, source)
            )
        self.labels = ctx.linear("labels", C, LABELS)

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens) + self.positions(step.positions)
        for layer in self.layers:
            x = layer(x, step)
        return x

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        return self.labels(pooled)


class Decoder(Encoder, CausalLM):
    def __init__(self, c: LayersConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.head = ctx.head("head", C, VOCABULARY)


class GraphPlatform(ReferencePlatform):
    """Queues work and captures graphs, as far as the engine can see."""

    asynchronous = True
    supports_graphs = True

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return torch.inference_mode()(work)


# -- a checkpoint of random weights


def tensor_of(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of this name: the same each time."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("norm.weight"):
        return 1 + 0.1 * noise
    # Large enough that what a layer adds matters, and likeliest tokens differ clearly.
    return noise if len(shape) == 1 or name.startswith(("embedding", "positions")) else 2 * noise * shape[-1] ** -0.5


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    return Checkpoint(path=path, files=(), tensor_types={"float32": 0}, config_file=f"{path}/config.json")


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    for name, shape in expected.items():
        yield LazyTensor(name, tuple(shape), "float32", partial(tensor_of, name, tuple(shape)))


def make_plan(
    folder: Path,
    layers: list[dict[str, Any]],
    *,
    model: str = "Decoder",
    config: str = "LayersConfig",
    tasks: tuple[str, ...] = ("generate",),
    platform: type[ReferencePlatform] = ReferencePlatform,
    **options: Any,
) -> Plan:
    """A Plan for a model with these layers, of parts that are here and in the framework."""
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["Tiny"],
                "vocab_size": VOCABULARY,
                "hidden_size": C,
                "num_hidden_layers": len(layers),
                "layers": layers,
            }
        )
    )
    (folder / "weights.tiny").touch()
    features = ReferenceAttention.features
    registry = make_registry(
        ModelCard(
            name="tiny",
            architectures=("Tiny",),
            target=f"{__name__}:{model}",
            config=f"{__name__}:{config}",
            attention=features,
            tasks=tasks,  # type: ignore[arg-type]
        ),
        LoaderCard(name="tiny", recognises=("*.tiny",), inspect=f"{__name__}:inspect", target=f"{__name__}:load"),
        AttentionCard(
            name="reference",
            target="dovetail.testing:ReferenceAttention",
            devices=("cpu",),
            dtypes=("float32",),
            features=features,
        ),
        PlatformCard(
            name="host", device="cpu", target=f"{platform.__module__}:{platform.__name__}", dtypes=("float32",)
        ),
        *builtin.dovetail_register_quantization(),
        *builtin.dovetail_register_sources(),
    )
    return resolve(PlanOptions(model=str(folder), **options), registry)


def make_args(**options: Any) -> EngineArgs:
    return EngineArgs(model="", **{"max_num_seqs": 8, "block_size": 4, "kv_cache_memory_bytes": 2**20, **options})


# -- the same, plainly


def linear(x: Tensor, name: str, rows: int) -> Tensor:
    return x @ tensor_of(f"{name}.weight", (rows, x.shape[-1])).double().T


def sees(spec: AttentionSpec, i: int, j: int) -> bool:
    """Whether token i sees token j."""
    if not spec.causal:
        return spec.window is None or abs(i - j) < spec.window
    if spec.chunk is not None and i // spec.chunk != j // spec.chunk:
        return False
    return j <= i and (spec.window is None or i - j < spec.window)


def attend(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, sinks: Tensor | None) -> Tensor:
    """``[T, H, D]`` over keys and values of every head."""
    tokens = len(q)
    mask = torch.tensor([[sees(spec, i, j) for j in range(tokens)] for i in range(tokens)])
    scores = torch.einsum("ihd,jhd->hij", q, k) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if spec.alibi_slopes is not None:
        places = torch.arange(tokens)
        scores = scores - torch.tensor(spec.alibi_slopes)[:, None, None] * (places[:, None] - places).abs()
    weights = scores.exp() * mask
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.double().exp()[:, None, None]
    return torch.einsum("hij,jhv->ihv", weights / total, v)


def hidden_states(layers: list[dict[str, Any]], tokens: list[int]) -> Tensor:
    """``[T, C]``, float64."""
    x = tensor_of("embedding.weight", (VOCABULARY, C))[tokens].double()
    x = x + tensor_of("positions.weight", (LONGEST, C))[: len(tokens)].double()
    kept: list[tuple[Tensor, Tensor]] = []
    for number, entry in enumerate(layers):
        name, spec = f"layers.{number}", spec_of(entry)
        scale = tensor_of(f"{name}.norm.weight", (C,)).double()
        h = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * scale
        if spec.latent:
            q = linear(h, f"{name}.q", H * (NOPE + ROPE)).unflatten(-1, (H, NOPE + ROPE))
            latent, turned = linear(h, f"{name}.row", R + ROPE).split((R, ROPE), -1)
            keys = torch.einsum("tr,hnr->thn", latent, tensor_of(f"{name}.up_keys", (H, NOPE, R)).double())
            k = torch.cat([keys, turned[:, None].expand(-1, H, -1)], -1)
            v = torch.einsum("tr,hvr->thv", latent, tensor_of(f"{name}.up_values", (H, LATENT_V, R)).double())
            kept.append((k, v))
        else:
            q = linear(h, f"{name}.q", H * D).unflatten(-1, (H, D))
            if spec.shared_cache:
                k, v = kept[entry["source"]]
            else:
                k = linear(h, f"{name}.k", K * D).unflatten(-1, (K, D)).repeat_interleave(H // K, 1)
                v = linear(h, f"{name}.v", K * spec.values).unflatten(-1, (K, -1)).repeat_interleave(H // K, 1)
            kept.append((k, v))
        sinks = tensor_of(f"{name}.sinks", (H,)) if spec.sinks else None
        x = x + linear(attend(q, k, v, spec, sinks).flatten(-2), f"{name}.out", C)
    return x


def generate(layers: list[dict[str, Any]], prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens, each computed from the whole sequence."""
    tokens = list(prompt)
    for _ in range(count):
        logits = linear(hidden_states(layers, tokens)[-1], "head", VOCABULARY)
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]

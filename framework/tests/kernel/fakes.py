"""Installed distributions made of a few files, and cards that name nothing real."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dovetail.api import (
    AttentionCard,
    AttentionRequirement,
    Card,
    Checkpoint,
    GrammarCard,
    LoaderCard,
    LogitsProcessorCard,
    ModelCard,
    ModelConfig,
    PlatformCard,
    ProposerCard,
    QuantFormatCard,
    QuantKernelCard,
    ReasoningParserCard,
    ResolvedModel,
    SourceCard,
    ToolParserCard,
    read_rope,
    scaled_length,
)
from dovetail.kernel.discovery import Plugin, PluginFilter, discover

MODEL = """
from dovetail.api import ModelCard, hookimpl

@hookimpl
def dovetail_register_models():
    return [ModelCard(name={name!r}, architectures=({architecture!r},), target="m:M", config="m:C")]
"""


def offering(name: str, architecture: str = "AnyForCausalLM") -> str:
    """The source of a plugin that offers one model."""
    return MODEL.format(name=name, architecture=architecture)


class Site:
    """A folder of installed packages.

    Args:
        folder: which the test puts on ``sys.path``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.distributions: set[str] = set()
        self.modules: set[str] = set()

    def add(
        self,
        distribution: str,
        source: str,
        *,
        version: str = "1.0",
        requires: Iterable[str] = ("dovetail~=0.1",),
        entries: Mapping[str, str] | None = None,
    ) -> str:
        """Install a package of one module; its module's name."""
        module = re.sub(r"[-.]", "_", distribution).lower()
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        head = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nSummary: a fake, {distribution}\n"
        (info / "METADATA").write_text(head + "".join(f"Requires-Dist: {r}\n" for r in requires))
        points = entries or {"main": module}
        (info / "entry_points.txt").write_text(
            "[dovetail.plugins]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        )
        (self.folder / f"{module}.py").write_text(source)
        (info / "RECORD").write_text(
            f"{module}.py,,\n" + "".join(f"{info.name}/{f.name},,\n" for f in sorted(info.iterdir()))
        )
        self.distributions.add(distribution)
        self.modules.add(module)
        importlib.invalidate_caches()
        return module

    def discover(self, filter: str = "") -> dict[str, Plugin]:
        """What became of the plugins of this folder, by distribution."""
        return {p.distribution: p for p in discover(PluginFilter(filter)) if p.distribution in self.distributions}

    def forget(self) -> None:
        for module in self.modules:
            sys.modules.pop(module, None)


class Entry:
    """An entry point's place in a :class:`Plugin` that was never installed."""

    dist = None
    value = "fake"


def plugin(distribution: str, *cards: Card, version: str = "1.0", **state: Any) -> Plugin:
    """A plugin that registered ``cards``."""
    found = Plugin(f"{distribution}:main", Entry(), distribution, version, **state)  # type: ignore[arg-type]
    found.cards = list(cards)
    return found


def model(name: str, *architectures: str, **claims: Any) -> ModelCard:
    claims.setdefault("target", "m:M")
    claims.setdefault("config", f"{__name__}:TinyConfig")
    return ModelCard(name=name, architectures=architectures or ("TinyForCausalLM",), **claims)


def loader(name: str, *patterns: str, **claims: Any) -> LoaderCard:
    claims.setdefault("inspect", f"{__name__}:inspect")
    return LoaderCard(name=name, recognises=patterns or ("*.w",), target="l:load", **claims)


def format_(
    name: str, types: Sequence[str] = ("float32",), packings: Sequence[str] = (), **claims: Any
) -> QuantFormatCard:
    return QuantFormatCard(name=name, target="f:F", types=dict.fromkeys(types, tuple(packings)), **claims)


def kernel(name: str, *packings: str, **claims: Any) -> QuantKernelCard:
    defaults: dict[str, Any] = {"devices": ("*",), "dtypes": ("float32",), "kinds": ("linear", "head", "embedding")}
    return QuantKernelCard(name=name, target="k:K", packings=packings or ("*",), **{**defaults, **claims})


def attention(name: str, **claims: Any) -> AttentionCard:
    defaults: dict[str, Any] = {"devices": ("*",), "dtypes": ("float32", "bfloat16", "float16")}
    return AttentionCard(name=name, target="a:A", **{**defaults, **claims})


def platform(name: str = "host", device: str = "cpu", **claims: Any) -> PlatformCard:
    return PlatformCard(name=name, device=device, target="p:P", **claims)


def source(name: str = "folder", target: str = "path", **claims: Any) -> SourceCard:
    return SourceCard(name=name, target=f"{__name__}:{target}", **claims)


def grammar(name: str = "rules", **claims: Any) -> GrammarCard:
    claims.setdefault("kinds", ("json", "regex"))
    return GrammarCard(name=name, target="g:G", validate_source=f"{__name__}:present", **claims)


def proposer(name: str = "guess", **claims: Any) -> ProposerCard:
    return ProposerCard(name=name, target="r:R", config="r:C", **claims)


def logits_processor(name: str = "tilt", **claims: Any) -> LogitsProcessorCard:
    return LogitsProcessorCard(name=name, target="x:X", **claims)


def tool_parser(name: str = "calls", *recognises: str, **claims: Any) -> ToolParserCard:
    return ToolParserCard(name=name, target="t:T", recognises=recognises or ("<<calls>>",), **claims)


def reasoning_parser(name: str = "thinks", *recognises: str, **claims: Any) -> ReasoningParserCard:
    return ReasoningParserCard(name=name, target="t:R", recognises=recognises or ("<<thinks>>",), **claims)


class TinyConfig(ModelConfig):
    """What a model's plugin would bring."""

    head_dim: int = 8
    window: int | None = None
    rope_scaling: dict[str, Any] = {}

    def longest_context(self) -> int:
        return scaled_length(self.max_position_embeddings, read_rope({"rope_scaling": self.rope_scaling})[""])

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(features=frozenset({"sliding"} if self.window else ()), head_dim=self.head_dim),)


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    """A checkpoint whose tensor types stand in its first file, as JSON."""
    return Checkpoint(path=path, files=files, tensor_types=json.loads(Path(files[0]).read_text() or '{"float32": 3}'))


def inspect_signed(path: str, files: tuple[str, ...]) -> Checkpoint:
    """As :func:`inspect`, of files that begin with a signature."""
    text = Path(files[0]).read_text().removeprefix("SIGN")
    return Checkpoint(path=path, files=files, tensor_types=json.loads(text))


def inspect_path(path: str, files: tuple[str, ...]) -> Checkpoint:
    """The file that was named, which no pattern matched."""
    assert not files
    return inspect(path, (path,))


def inspect_nothing(path: str, files: tuple[str, ...]) -> Checkpoint:
    """A checkpoint without files."""
    assert not files
    return Checkpoint(path=path, files=(), tensor_types={"float32": 0})


def inspect_container(path: str, files: tuple[str, ...]) -> Checkpoint:
    """A container with names, metadata and a tokenizer of its own."""
    return Checkpoint(
        path=path,
        files=files,
        naming="box",
        architecture="tiny",
        metadata={"size": 16},
        tensor_types={"float32": 3},
        tokenizer="box:tokenizer",
        tokenizer_path=files[0],
    )


class BoxNaming:
    """The translation that goes with :func:`inspect_container`."""

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        size = metadata["size"]
        return {"architectures": ["TinyForCausalLM"], "vocab_size": size, "hidden_size": size, "num_hidden_layers": 1}

    def rename(self, name: str) -> str | None:
        return name

    def row_order(self, name: str, config: Mapping[str, Any]) -> Any | None:
        return None


NAMING = BoxNaming()


def path(reference: str | None, **_: Any) -> str | None:
    return reference


def nowhere(reference: str | None, **_: Any) -> str | None:
    return None


def recommended(reference: str | None, **_: Any) -> ResolvedModel | None:
    return ResolvedModel(reference, {"temperature": 0.2, "top_k": 9}) if reference else None


def absent() -> str | None:
    return "there is no such device here"


def present() -> str | None:
    return None


def raising(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("division by zero\nand a second line")


def leaving(*_: Any, **__: Any) -> Any:
    raise SystemExit(3)

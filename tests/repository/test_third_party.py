"""A plugin that is nowhere in this repository: built, installed by pip, found and served; and others beside it that are broken."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

DOVETAIL = Path(sys.executable).with_name("dovetail")

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "3.1"
description = "{summary}"
dependencies = ["dovetail~=0.1"]

[project.entry-points."dovetail.plugins"]
{module} = "{module}"

[tool.hatch.build.targets.wheel]
packages = ["{module}"]
"""

REGISTRATION = """
from dovetail.api import ModelCard, hookimpl


@hookimpl
def dovetail_register_models():
    return [
        ModelCard(
            name="walnut",
            summary="attention and MLP side by side, and no positions",
            architectures=("WalnutForCausalLM",),
            target="nutshell.model:WalnutForCausalLM",
            config="nutshell.config:WalnutConfig",
        )
    ]
"""

CONFIG = """
from dovetail.api import AttentionRequirement, ModelConfig


class WalnutConfig(ModelConfig):
    heads: int
    shell: int

    def attention_requirements(self):
        return (AttentionRequirement(head_dim=self.hidden_size // self.heads),)
"""

MODEL = """
import torch.nn.functional as F
from torch import nn

from dovetail.nn import AttentionSpec, CausalLM


class Block(nn.Module):
    def __init__(self, c, ctx, name):
        super().__init__()
        size, self.dim = c.hidden_size, c.hidden_size // c.heads
        self.norm = ctx.norm(f"{name}.norm", size, 1e-5)
        self.q, self.k, self.v = (ctx.linear(f"{name}.{part}", size, size) for part in "qkv")
        self.attention = ctx.attention(AttentionSpec(c.heads, c.heads, self.dim, self.dim**-0.5))
        self.out = ctx.linear(f"{name}.out", size, size)
        self.up = ctx.linear(f"{name}.up", size, c.shell, bias=True)
        self.down = ctx.linear(f"{name}.down", c.shell, size)

    def forward(self, x, step):
        y = self.norm(x)
        q, k, v = (part(y).unflatten(-1, (-1, self.dim)) for part in (self.q, self.k, self.v))
        return x + self.out(self.attention(q, k, v, step).flatten(-2)) + self.down(F.relu(self.up(y)))


class WalnutForCausalLM(CausalLM):
    def __init__(self, c, ctx):
        super().__init__()
        self.embedding = ctx.embedding("nut.tokens", c.vocab_size, c.hidden_size)
        self.blocks = nn.ModuleList(Block(c, ctx, f"nut.{i}") for i in range(c.num_hidden_layers))
        self.norm = ctx.norm("nut.norm", c.hidden_size, 1e-5)
        self.head = ctx.head("nut.head", c.hidden_size, c.vocab_size)

    def forward(self, step):
        x = self.embedding(step.tokens)
        for block in self.blocks:
            x = block(x, step)
        return self.norm(x)
"""

WALNUT = {"__init__.py": REGISTRATION, "config.py": CONFIG, "model.py": MODEL}
TWIN = {"__init__.py": REGISTRATION.replace("nutshell.", "pecanshell.")}
CRACKED = {"__init__.py": 'raise RuntimeError("the shell is cracked")'}


# Checkpoints of this architecture, and what it computes, in plain torch.

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZE, HEADS, SHELL, LAYERS = 32, 4, 48, 2
WALNUT_CONFIG = {
    "architectures": ["WalnutForCausalLM"],
    "vocab_size": len(LETTERS),
    "hidden_size": SIZE,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 128,
    "heads": HEADS,
    "shell": SHELL,
}


def random_weights() -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"nut.tokens.weight": (len(LETTERS), SIZE), "nut.norm.weight": (SIZE,)}
    shapes["nut.head.weight"] = (len(LETTERS), SIZE)
    for i in range(LAYERS):
        shapes |= {f"nut.{i}.{part}.weight": (SIZE, SIZE) for part in ("q", "k", "v", "out")}
        shapes |= {f"nut.{i}.norm.weight": (SIZE,), f"nut.{i}.up.bias": (SHELL,)}
        shapes |= {f"nut.{i}.up.weight": (SHELL, SIZE), f"nut.{i}.down.weight": (SIZE, SHELL)}
    torch.manual_seed(5)  # with which the continuations are no mere repetition of a letter
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def expected(weights: dict[str, torch.Tensor], text: str, count: int) -> str:
    """The likeliest continuation, computed anew for every letter."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, (SIZE,), weights[f"{name}.weight"], 1e-5)

    def attend(y: torch.Tensor, name: str) -> torch.Tensor:
        q, k, v = (F.linear(y, weights[f"{name}.{p}.weight"]).view(len(y), HEADS, -1).transpose(0, 1) for p in "qkv")
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        return F.linear(mixed.transpose(0, 1).flatten(1), weights[f"{name}.out.weight"])

    start = len(text)
    for _ in range(count):
        x = weights["nut.tokens.weight"][[LETTERS.index(letter) for letter in text]]
        for i in range(LAYERS):
            y = norm(x, f"nut.{i}.norm")
            up = F.relu(F.linear(y, weights[f"nut.{i}.up.weight"], weights[f"nut.{i}.up.bias"]))
            x = x + attend(y, f"nut.{i}") + F.linear(up, weights[f"nut.{i}.down.weight"])
        text += LETTERS[int(F.linear(norm(x, "nut.norm")[-1], weights["nut.head.weight"]).argmax())]
    return text[start:]


def write_checkpoint(folder: Path, weights: dict[str, torch.Tensor], **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**WALNUT_CONFIG, **changes}))
    save_file(weights, folder / "model.safetensors")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return random_weights()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, torch.Tensor]) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "walnut-tiny", weights)


# Installations.


def install(root: Path, name: str, module: str, files: dict[str, str]) -> Path:
    """Build a package and install it, into a folder of its own; the folder."""
    package, target = root / name, root / f"{name}-installed"
    (package / module).mkdir(parents=True)
    (package / "pyproject.toml").write_text(PROJECT.format(name=name, module=module, summary=f"{name}, for Dovetail"))
    for file, text in files.items():
        (package / module / file).write_text(text)
    flags = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, "--target", target, package], check=True, timeout=120
    )
    return target


@pytest.fixture(scope="module")
def walnut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("walnut"), "walnut-for-dovetail", "nutshell", WALNUT)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("twin"), "Twin.Walnut", "pecanshell", TWIN)


@pytest.fixture(scope="module")
def cracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("cracked"), "cracked-nut", "crackedshell", CRACKED)


def environment(*folders: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "HF_HUB_OFFLINE": "1"}


def dovetail(*arguments: str | Path, folders: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DOVETAIL, *arguments], env=environment(*folders), capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def serving(*arguments: str | Path, folders: tuple[Path, ...], errors: Path) -> Iterator[str]:
    """The URL of a server; its standard error goes to a file."""
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [DOVETAIL, "serve", *arguments, "--port", "0"],
            env=environment(*folders),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as server,
    ):
        try:
            assert server.stdout is not None
            # It says where it is once it is ready, or closes its output.
            found = re.search(r" at (http://\S+)", server.stdout.readline())
            assert found, errors.read_text()
            yield found[1]
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def completed(url: str, prompt: str, count: int) -> str:
    body = {"model": httpx2.get(f"{url}/v1/models").json()["data"][0]["id"], "prompt": prompt}
    answer = httpx2.post(f"{url}/v1/completions", json={**body, "max_tokens": count, "temperature": 0}, timeout=60)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "length"
    text: str = choice["text"]
    return text


# The healthy one.


def test_it_is_listed_once_it_is_installed(walnut: Path) -> None:
    assert "nutshell" not in dovetail("plugins", "list", folders=()).stdout
    done = dovetail("plugins", "list", folders=(walnut,))
    assert "walnut-for-dovetail 3.1  walnut-for-dovetail, for Dovetail\n  model      walnut " in done.stdout
    assert not done.stderr
    (shown,) = json.loads(dovetail("plugins", "show", "walnut", "--json", folders=(walnut,)).stdout)
    assert (shown["status"], shown["module"]) == ("ok", "nutshell")


def test_the_doctor_finds_nothing_wrong_with_it(walnut: Path) -> None:
    done = dovetail("plugins", "doctor", folders=(walnut,))
    assert done.returncode == 0, done.stdout
    assert "error" not in done.stdout


def test_without_it_its_checkpoint_cannot_be_served(checkpoint: Path) -> None:
    done = dovetail("serve", checkpoint, "--port", "0", folders=())
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: wanted a model plugin for the architecture WalnutForCausalLM, found nothing that fits"
    )


def test_its_checkpoint_is_served(
    walnut: Path, checkpoint: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with serving(checkpoint, folders=(walnut,), errors=tmp_path / "errors") as url:
        for prompt in ("walnut", "q", "thequickbrownfox"):
            assert completed(url, prompt, 24) == expected(weights, prompt, 24)
    assert "WalnutForCausalLM on cpu" in (tmp_path / "errors").read_text()


# Beside broken ones.


def test_one_that_raises_is_named_by_the_doctor_and_harms_nothing(
    walnut: Path, cracked: Path, checkpoint: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folders = (cracked, walnut)
    done = dovetail("plugins", "doctor", folders=folders)
    assert done.returncode == 1
    assert (
        "error: cracked-nut:crackedshell: RuntimeError: the shell is cracked; update, repair or uninstall it"
        in done.stdout
    )
    with serving(checkpoint, folders=folders, errors=tmp_path / "errors") as url:
        assert completed(url, "walnut", 8) == expected(weights, "walnut", 8)
    warning = "warning: the plugin cracked-nut is broken and was left out: RuntimeError: the shell is cracked\n"
    assert warning in (tmp_path / "errors").read_text()


def test_one_that_raises_is_suspected_where_something_is_missing(cracked: Path, checkpoint: Path) -> None:
    done = dovetail("plan", checkpoint, folders=(cracked,))
    assert done.returncode == 1
    assert "; note that the broken plugin cracked-nut may offer it (RuntimeError: the shell is cracked)" in done.stderr


@pytest.mark.parametrize("reverse", [False, True])
def test_two_that_offer_one_name_conflict_loudly(walnut: Path, twin: Path, checkpoint: Path, reverse: bool) -> None:
    folders = (twin, walnut) if reverse else (walnut, twin)
    said = "model 'walnut' is offered by Twin.Walnut 3.1 and walnut-for-dovetail 3.1, so neither is used"
    assert (
        f"warning: {said}; uninstall one, or choose with --prefer "
        in dovetail("plugins", "list", folders=folders).stderr
    )
    done = dovetail("plugins", "doctor", folders=folders)
    assert done.returncode == 1
    assert f"error: model walnut: {said}" in done.stdout
    done = dovetail("serve", checkpoint, "--port", "0", folders=folders)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]


def test_a_preference_settles_the_conflict(walnut: Path, twin: Path, checkpoint: Path) -> None:
    chosen = {}
    for name in ("walnut-for-dovetail", "twin-walnut"):
        done = dovetail("plan", checkpoint, "--json", "--prefer", f"model:walnut={name}", folders=(twin, walnut))
        if name == "twin-walnut":  # whose modules are not there
            assert done.stderr.startswith(
                "error: the model walnut (Twin.Walnut 3.1): cannot import pecanshell.config:WalnutConfig"
            )
        else:
            chosen = json.loads(done.stdout)["model_part"]["part"]
    assert chosen["distribution"] == "walnut-for-dovetail"


def test_overrides_force_an_architecture_whatever_is_installed_beside_it(
    walnut: Path, twin: Path, cracked: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    pecan = write_checkpoint(tmp_path / "pecan", weights, architectures=["PecanForCausalLM"], heads=1)
    folders = (cracked, twin, walnut)
    prefer = ("--prefer", "model:walnut=walnut-for-dovetail")
    done = dovetail("plan", pecan, *prefer, folders=folders)
    assert "wanted a model plugin for the architecture PecanForCausalLM, found nothing that fits" in done.stderr
    overrides = json.dumps({"architectures": ["WalnutForCausalLM"], "heads": HEADS})
    options = (*prefer, "--hf-overrides", overrides)
    with serving(pecan, *options, folders=folders, errors=tmp_path / "errors") as url:
        assert completed(url, "pecan", 8) == expected(weights, "pecan", 8)

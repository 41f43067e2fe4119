"""Plugins that are broken, each in one way: the culprit is named with its distribution, one line says what to do, and the rest lives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dovetail_models_llama import dovetail_register_models

from dovetail import LLM, SamplingParams
from dovetail.api import (
    AttentionCard,
    Card,
    CheckpointError,
    DovetailError,
    LoaderCard,
    NamingCard,
    PlatformCard,
    PluginError,
    ProposerCard,
    QuantFormatCard,
    QuantKernelCard,
    ReasoningParserCard,
    SourceCard,
    ToolParserCard,
)
from dovetail.cli.main import main
from dovetail.kernel.discovery import discover
from dovetail.kernel.plan_parts import Part
from dovetail.kernel.registry import Registry
from dovetail.nn.checked_parts import CheckedNaming
from framework.tests.kernel.fakes import Site, plugin

from ..serving import serving, until
from ..tiny import write_checkpoint
from . import broken_parts

HERE = broken_parts.__name__
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
FLOATS = ("float32", "bfloat16", "float16")
TOP = 1000
"""A rank above all others, so that the broken part is taken."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have commands of this process find some cards beside the installed plugins, from the distribution ``broken-nut``."""
    installed = discover()

    def put(*cards: Card) -> None:
        registry = Registry([*installed, plugin("broken-nut", *cards, version="3.1")])
        monkeypatch.setattr(Registry, "load", lambda **_: registry)

    return put


def model(target: str = "", config: str = "", **changes: Any) -> tuple[Card, dict[str, Any]]:
    """Llama under another name, with a broken class; and the options with which it is taken."""
    llama, *_ = dovetail_register_models()
    update = {"target": f"{HERE}:{target}" if target else llama.target}
    update |= {"config": f"{HERE}:{config}" if config else llama.config}
    card = llama.model_copy(update={"name": "nut", "architectures": ("NutForCausalLM",), **update, **changes})
    return card, {"hf_overrides": {"architectures": ["NutForCausalLM"]}}


def loader(target: str = "load", inspect: str = "inspect", **options: Any) -> tuple[Card, dict[str, Any]]:
    recognises = ("*.safetensors",)
    card = LoaderCard(
        name="nut", rank=TOP, recognises=recognises, inspect=f"{HERE}:{inspect}", target=f"{HERE}:{target}"
    )
    return card, options


def format_(target: str) -> tuple[Card, dict[str, Any]]:
    types = dict.fromkeys(FLOATS, ("dense",))
    return QuantFormatCard(name="nut", rank=TOP, target=f"{HERE}:{target}", types=types), {}


def kernel(target: str, **claims: Any) -> tuple[Card, dict[str, Any]]:
    return (
        QuantKernelCard(
            name="nut", rank=TOP, target=f"{HERE}:{target}", packings=("dense",), devices=("*",), dtypes=FLOATS,
            kinds=("linear", "head", "embedding"), **claims,
        ),
        {},
    )  # fmt: skip


def attention(target: str, **options: Any) -> tuple[Card, dict[str, Any]]:
    card = AttentionCard(name="nut", rank=TOP, target=f"{HERE}:{target}", devices=("cpu",), dtypes=FLOATS)
    return card, options


def platform(target: str, probe: str | None = None) -> tuple[Card, dict[str, Any]]:
    card = PlatformCard(name="nut", device="cpu", target=f"{HERE}:{target}", probe=probe and f"{HERE}:{probe}")
    return card, {"device": "nut"}


CRACKED = "Cracked: the shell is cracked (in tests.engine.broken_parts, line "

# Found when the Plan is made.
UNPLANNABLE: dict[str, tuple[tuple[Card, dict[str, Any]], str]] = {
    "a config that is not there": (model(config="Nowhere"), f"the model nut (broken-nut 3.1): cannot import {HERE}:N"),
    "a config that is none": (model(config="NoModel"), "(broken-nut 3.1): NoModel is no subclass of dovetail.api"),
    "a validator": (model(config="StumblingConfig"), "nut (broken-nut 3.1) failed to read "),
    "attention_requirements": (
        model(config="SilentConfig"),
        "nut (broken-nut 3.1) failed to say which attention it needs (attention_requirements): Cracked: which attention?",
    ),
    "attention_requirements of a wrong type": (
        model(config="WordyConfig"),
        "nut (broken-nut 3.1) answered attention_requirements() with str, wanted a tuple of AttentionRequirement",
    ),
    "longest_context of a wrong type": (
        model(config="EndlessConfig"),
        "nut (broken-nut 3.1) answered longest_context() with float inf, wanted a number of tokens",
    ),
    "an inspector that was asked for": (
        loader(inspect="fail", load_format="nut"),
        f"the loader nut (broken-nut 3.1) failed to describe {{}}: {CRACKED}",
    ),
    "an inspector of a wrong type": (
        loader(inspect="give_list", load_format="nut"),
        "the loader nut (broken-nut 3.1) answered the files at {} with list, wanted a Checkpoint",
    ),
    "an inspector that leaves": (loader(inspect="leave", load_format="nut"), "failed to describe {}: SystemExit: 7"),
    "an inspector that interrupts": (
        loader(inspect="press", load_format="nut"),
        "failed to describe {}: KeyboardInterrupt",
    ),
}

# Found when the model is built and loaded.
UNLOADABLE: dict[str, tuple[tuple[Card, dict[str, Any]], str]] = {
    "a loader that is not there": (loader("nowhere"), f"the loader nut (broken-nut 3.1): cannot import {HERE}:nowhere"),
    "a loader that fails": (loader("fail"), f"the loader nut (broken-nut 3.1) failed to open the weights of {{}}: {CRACKED}"),
    "a loader that returns None": (loader("load_nothing"), "failed to open the weights of {}: TypeError"),
    "a loader that gives pairs": (loader("load_pairs"), "answered the weights of {} with tuple, wanted a LazyTensor"),
    "a loader that gives None": (loader("load_gap"), "answered the weights of {} with None, wanted a LazyTensor"),
    "a loader that repeats": (loader("load_twice"), "the loader nut (broken-nut 3.1) gave the tensor model.norm.weight of {} twice"),
    "a loader that omits": (
        loader("load_fewer"),
        "the loader nut (broken-nut 3.1) gave 29 tensors of type float32 of {}, without model.norm.weight, and its "
        "inspect() counted 30; the files must not",
    ),
    "a loader of another type": (
        loader("load_mistyped"),
        "nut (broken-nut 3.1) gave the tensor model.norm.weight of {} the type 'nut4', and its inspect() counted float32",
    ),
    "a loader of no type": (loader("load_untyped"), "of {} the type torch.float32, and its inspect() counted float32"),
    "a loader that stops": (loader("load_half"), "failed to list the tensors of {}: OSError: the disk is gone"),
    "a tensor that cannot be read": (
        loader("load_unreadable"),
        f"the loader nut (broken-nut 3.1) failed to read the tensor model.layers.1.mlp.up_proj.weight: {CRACKED}",
    ),
    "a tensor of another shape": (loader("load_flat"), "with Tensor of torch.float32 ["),
    "a format that loads nothing": (format_("FormatOfNothing"), "the format nut (broken-nut 3.1) answered load() of "),
    "a format that cannot be made": (
        format_("UnmadeFormat"), f"the format nut (broken-nut 3.1) failed to read the quantization_config: {CRACKED}"
    ),
    "a format that fails": (format_("FailingFormat"), "the format nut (broken-nut 3.1) failed to load model."),
    "a format that is none": (format_("NoModel"), "NoModel is no subclass of dovetail.nn.QuantFormat"),
    "a weight that fails": (
        format_("BareFormat"), "the format nut (broken-nut 3.1) failed to dequantize a weight of type float32 and shape ["
    ),
    "a kernel that fails": (kernel("FailingKernel"), "the kernel nut (broken-nut 3.1) failed to take a weight of type"),
    "a kernel with a wrong reason": (kernel("ListingKernel"), "answered unsupported_reason() with list, wanted a text"),
    "a kernel with an empty reason": (
        kernel("MuteKernel"), "answered unsupported_reason() with an empty text, wanted a text or None"
    ),
    "a kernel that leaves": (kernel("UnpreparedKernel"), "(broken-nut 3.1) failed to prepare a weight: SystemExit: 7"),
    "a platform that fails": (platform("FailingPlatform"), f"the platform nut (broken-nut 3.1) failed to open its device: {CRACKED}"),
    "memory of a wrong type": (platform("ForgetfulPlatform"), "answered memory() with int 1073741824, wanted a Memory"),
    "room below zero": (
        (platform("IndebtedPlatform")[0], {"device": "nut", "kv_cache_memory_bytes": None}),
        "the platform nut (broken-nut 3.1) answered kv_cache_bytes() with int -1048576, wanted a number of bytes, 0 or more",
    ),
    "blocks below zero": (attention("IndebtedAttention"), "the attention nut (broken-nut 3.1) answered block_bytes() with int -"),
    "half a byte": (attention("EagerAttention"), "answered workspace_bytes() with float 0.5, wanted a number of bytes"),
    "a device of a wrong type": (platform("HomelessPlatform"), "answered device with str, wanted a torch.device"),
    "copies to the device that fail": (platform("StuckPlatform"), f"(broken-nut 3.1) failed to copy to its device (upload): {CRACKED}"),
    "copies to the device of a wrong type": (platform("ForeignPlatform"), "answered upload() with ndarray of float32 [257, 4], wanted a tensor"),
    "copies to the host of a wrong type": (platform("SilentPlatform"), "answered fetch() with None, wanted a function"),
    "a kernel's memory of a wrong type": (kernel("WordyKernel"), "answered nbytes with str, wanted a number of bytes"),
    "a kernel that fails in a step": (
        kernel("CrackingKernel"),
        "the kernel nut (broken-nut 3.1) failed as the model llama (dovetail-models-llama 0.1.0) was asked to compute",
    ),
    "attention that fails in a step": (
        attention("CrackingAttention"),
        "the attention nut (broken-nut 3.1) failed as the model llama (dovetail-models-llama 0.1.0) was asked to compute",
    ),
    "a kernel of another shape": (
        kernel("ShortKernel"),
        "the kernel nut (broken-nut 3.1) answered the rows of model.embed_tokens with Tensor of torch.float32 [8, 47], wanted a tensor of torch.float32 [8, 48]",
    ),
    "a kernel of another dtype": (kernel("WideKernel"), "answered the rows of model.embed_tokens with Tensor of torch.float64 [8, 48], wanted a tensor of torch.float32"),
    "a kernel on another device": (kernel("AbsentKernel"), "with Tensor of torch.float32 [8, 48] on meta, wanted a tensor of torch.float32 [8, 48] on cpu"),
    "a kernel whose gated product has another shape": (kernel("NarrowGateKernel"), "the kernel nut (broken-nut 3.1) answered the product of model.layers.0.mlp.gate_proj, model.layers.0.mlp.up_proj with"),
    "attention that rotates, of another shape": (attention("FlatRotatingAttention"), "answered forward_rotated() of the layer blocks.0.attention.attention with Tensor of torch.float32 [8, 48]"),
    "a gate of another dtype": (platform("WideGates"), "the platform nut (broken-nut 3.1) answered silu_mul() with Tensor of torch.float64"),
    "attention of another shape": (
        attention("FlatAttention"),
        "the attention nut (broken-nut 3.1) answered forward() of the layer blocks.0.attention.attention with Tensor of torch.float32 [8, 48], wanted a tensor of torch.float32 [8, 6, 8]",
    ),
    "an operation of another dtype": (platform("WideOperations"), "the platform nut (broken-nut 3.1) answered rms_norm() with Tensor of torch.float64 [8, 48], wanted a tensor of torch.float32"),
    "an operation of another kind": (platform("LoneOperations"), "answered add_rms_norm() with Tensor of torch.float32 [8, 48], wanted 2 tensors"),
    "a model that raises what is for users": (model("PickyModel"), "the model nut (broken-nut 3.1) failed to compute a step (forward): RequestError: no such shell; take another (in"),
    "a model without memory of the host": (model("HungryModel"), "the model nut (broken-nut 3.1) failed to compute a step (forward): MemoryError (in"),
    "attention that fails": (attention("FailingAttention"), "the attention nut (broken-nut 3.1) failed to start on cpu"),
    "attention without room": (attention("RoomlessAttention"), "(broken-nut 3.1) failed to allocate "),
    "attention that is none": (attention("NoAttention"), "NoAttention is no subclass of dovetail.nn.AttentionBackend"),
    "a model that cannot be built": (model("UnbuiltModel"), f"the model nut (broken-nut 3.1) failed to build its layers: {CRACKED}"),
    "a model that is none": (model("NoModel"), "NoModel is no subclass of dovetail.nn.CausalLM"),
    "hidden states of a wrong type": (model("PairModel"), "answered forward() with tuple, wanted hidden states [8, C]"),
    "too few hidden states": (model("ShortModel"), "answered forward() with Tensor of torch.float32 [7, 48], wanted"),
    "too few logits": (model("NarrowModel"), "answered logits() with Tensor of torch.float32 [1, 255], wanted"),
    "a proposer": (
        (
            ProposerCard(name="nut", target=f"{HERE}:FailingProposer", config=f"{HERE}:Options"),
            {"speculative_config": {"method": "nut"}},
        ),
        f"the proposer nut (broken-nut 3.1) failed to start: {CRACKED}",
    ),
}  # fmt: skip

WAY_OUT = "; update it, or leave it out with --plugins=-broken-nut"


def start(checkpoint: Path, **options: Any) -> LLM:
    return LLM(str(checkpoint), max_model_len=64, **{"kv_cache_memory_bytes": 2**20, **options})


def check(error: DovetailError, told: str, checkpoint: Path) -> None:
    assert type(error) is PluginError
    assert error.exit_code == 1
    text = str(error)
    assert told.format(checkpoint) in text
    assert "broken-nut" in text
    assert WAY_OUT in text
    assert "\n" not in text
    assert not re.search(r"\bbug\b|report", text)


@pytest.mark.parametrize("fault", UNPLANNABLE)
def test_what_the_plan_needs(install: Any, checkpoint: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    (card, options), told = UNPLANNABLE[fault]
    install(card)
    with pytest.raises(PluginError) as failure:
        start(checkpoint, **options)
    check(failure.value, told, checkpoint)
    flags = ["--load-format", "nut"] if "load_format" in options else []
    if "hf_overrides" in options:
        flags = ["--hf-overrides", '{"architectures": ["NutForCausalLM"]}']
    capsys.readouterr()
    assert main(["plan", str(checkpoint), *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {failure.value}"


@pytest.mark.parametrize("fault", UNLOADABLE)
def test_what_the_engine_needs(install: Any, checkpoint: Path, fault: str) -> None:
    (card, options), told = UNLOADABLE[fault]
    install(card)
    with pytest.raises(PluginError) as failure:
        start(checkpoint, **options)
    check(failure.value, told, checkpoint)


def test_a_loader_that_renames_is_named_beside_the_files(install: Any, checkpoint: Path) -> None:
    """Nobody knows which of the two it is."""
    install(loader("load_renamed")[0])
    with pytest.raises(CheckpointError) as failure:
        start(checkpoint)
    assert "(missing: model.norm.weight; unexpected: model.nutty.weight)" in failure.value.problem
    told = f"{checkpoint} lacks them, the loader nut (broken-nut 3.1) did not give them under their names"
    assert failure.value.problem.endswith(
        f"; {told} (--plugins=-broken-nut leaves it out), or the model names them wrongly"
    )


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("Misnaming", "missing: model.shell.weight; unexpected: model.norm.weight"),
        ("Misshaping", "of the wrong shape: model.norm.weight is [48], wanted [49]"),
        ("Omitting", "unexpected: model.norm.weight"),
    ],
)
def test_a_model_whose_layers_name_other_tensors_is_named(
    install: Any, checkpoint: Path, target: str, told: str
) -> None:
    card, options = model(target)
    install(card)
    with pytest.raises(CheckpointError) as failure:
        start(checkpoint, **options)
    assert failure.value.problem.startswith(
        f"the checkpoint does not hold the tensors that the model nut (broken-nut 3.1) expects ({told})"
    )
    assert failure.value.hint.endswith(", or update broken-nut, whose layers name the tensors")


def test_a_naming_that_fails(install: Any, checkpoint: Path) -> None:
    part = Part(kind="model", name="nut", distribution="broken-nut", version="3.1", target="n:N")

    class Naming:
        config = rename = row_order = staticmethod(broken_parts.fail)

    naming = CheckedNaming(part, Naming())
    for call in (lambda: naming.rename("a.b"), lambda: naming.row_order("a.b", {}), lambda: naming.config("x", {})):
        with pytest.raises(PluginError) as failure:
            call()
        check(failure.value, CRACKED, checkpoint)
    Naming.rename = staticmethod(broken_parts.give_list)
    with pytest.raises(PluginError, match=r"answered rename\('a\.b'\) with list, wanted a name or None"):
        naming.rename("a.b")


def test_one_that_fails_in_the_third_step(install: Any, checkpoint: Path) -> None:
    card, options = model("StumblingModel")
    install(card)
    llm = start(checkpoint, **options)
    with pytest.raises(PluginError) as failure:
        llm.generate([{"prompt_token_ids": [1, 2, 3, 4, 5]}], GREEDY)
    check(failure.value, f"the model nut (broken-nut 3.1) failed to compute a step (forward): {CRACKED}", checkpoint)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_end_their_request_alone(install: Any, checkpoint: Path, temperature: float) -> None:
    card, options = model("NanModel")
    install(card)
    llm = start(checkpoint, **options)
    params = SamplingParams(temperature=temperature, max_tokens=3, ignore_eos=True, seed=5)
    prompts = [{"prompt_token_ids": [1, 2, last]} for last in (3, 7, 4)]
    alone = [output.outputs[0].token_ids for output in llm.generate(prompts[::2], params)]
    first, broken, last = (output.outputs[0] for output in llm.generate(prompts, params))
    assert [first.token_ids, last.token_ids] == alone
    assert (broken.token_ids, broken.finish_reason) == ([], "error")
    assert "the model's logits are not numbers (NaN)" in str(broken.error)
    assert "or the weights are damaged" in str(broken.error)


# The rest lives.

BROKEN_SOURCE = SourceCard(name="nut", rank=TOP, target=f"{HERE}:fail")


@pytest.mark.parametrize("how", ["fail", "give_list", "leave", "press"])
def test_sources_and_loaders_that_fail_are_left_out_with_a_warning(
    install: Any, checkpoint: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    install(SourceCard(name="nut", rank=TOP, target=f"{HERE}:{how}"), loader(inspect=how)[0])
    assert main(["plan", str(checkpoint)]) == 0
    said = capsys.readouterr()
    warnings = said.err.splitlines()
    assert [line.partition(" (broken-nut 3.1) ")[0] for line in warnings] == [
        "warning: the source nut",
        "warning: the loader nut",
    ]
    assert all(WAY_OUT in line for line in warnings)
    assert re.search(r"loader +safetensors .*\n +not nut \(broken-nut\): it is broken: ", said.out)


def test_a_source_that_fails_is_named_where_no_other_knows_the_reference(
    install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    install(BROKEN_SOURCE)
    assert main(["plan", "nowhere-at-all"]) == 1
    assert capsys.readouterr().err.startswith("error: the source nut (broken-nut 3.1) failed to resolve ")


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        ("fail", "(Cracked: the shell"),
        ("give_list", "(it answered with list"),
        ("give_nothing", "(it answered with an empty text, wanted"),
    ],
)
def test_a_probe_that_fails_is_an_objection(
    install: Any, checkpoint: Path, capsys: pytest.CaptureFixture[str], probe: str, told: str
) -> None:
    install(platform("FailingPlatform", probe)[0])
    assert main(["plan", str(checkpoint)]) == 0
    assert f"not nut (broken-nut): its probe failed {told}" in capsys.readouterr().out
    assert main(["plan", str(checkpoint), "--device", "nut"]) == 1
    assert "a fault of broken-nut 3.1" in capsys.readouterr().err


def test_with_all_of_them_installed_the_others_run(install: Any, checkpoint: Path) -> None:
    install()
    wanted = start(checkpoint).generate([{"prompt_token_ids": [1, 2, 3]}], GREEDY)[0].outputs[0].token_ids
    naming = {"box": NamingCard(architectures=("nut",), target=f"{HERE}:fail")}
    cards = [
        BROKEN_SOURCE, loader(inspect="fail")[0], model("UnbuiltModel", "StumblingConfig", naming=naming)[0],
        platform("FailingPlatform", "fail")[0], kernel("FailingKernel", probe=f"{HERE}:fail")[0],
    ]  # fmt: skip
    install(*cards)
    assert start(checkpoint).generate([{"prompt_token_ids": [1, 2, 3]}], GREEDY)[0].outputs[0].token_ids == wanted


# In a server.


@pytest.mark.parametrize(
    ("card", "flag", "target", "told"),
    [
        (ToolParserCard, "--tool-call-parser", "none_such:Parser", "cannot import none_such:Parser: ModuleNotFoundError"),
        (ReasoningParserCard, "--reasoning-parser", f"{HERE}:NoModel", "NoModel is no subclass of dovetail.api.ReasoningParser"),
    ],
)  # fmt: skip
def test_a_parser_that_was_chosen_by_name_is_imported_at_the_start(
    install: Any, checkpoint: Path, capsys: pytest.CaptureFixture[str], card: Any, flag: str, target: str, told: str
) -> None:
    install(card(name="nut", recognises=("<nut>",), target=target))
    assert main(["serve", str(checkpoint), flag, "nut", "--port", "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: the {card.kind} nut (broken-nut 3.1): ")
    assert told in line
    assert line.endswith(WAY_OUT + "; --debug shows the traceback")


PLUGIN = """
from dovetail.api import hookimpl
import dovetail_models_llama

@hookimpl
def dovetail_register_models():
    card, *_ = dovetail_models_llama.dovetail_register_models()
    update = dict(name="nut", architectures=("NutForCausalLM",), target="tests.engine.broken_parts:StumblingModel")
    return [card.model_copy(update=update)]
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder)


def test_a_server_tells_its_operator_and_not_its_clients(site: Site, checkpoint: Path) -> None:
    site.add("broken-nut", PLUGIN, version="3.1")
    path = f"{site.folder}:{Path.cwd()}"
    overrides = ("--hf-overrides", '{"architectures": ["NutForCausalLM"]}')
    with serving(str(checkpoint), *overrides, "--max-model-len", "64", PYTHONPATH=path) as server:

        def ask(*prompt: int) -> httpx2.Response:
            body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
            return httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)

        for told in ("it is being started again", "it died again"):
            until(lambda: ask(1, 2).status_code == 200, 120)
            answer = ask(1, 2, 3, 4, 5)
            assert answer.status_code >= 500
            assert "the request id is " in answer.text
            assert not re.search("nut|shell|Traceback|broken_parts", answer.text)
            until(lambda told=told: any(told in line for line in server.log))
    fault = "the model nut (broken-nut 3.1) failed to compute a step (forward): Cracked: the shell is cracked (in "
    (died,) = (line for line in server.log if "it is being started again" in line)
    assert f"the engine died: {fault}" in died
    (last,) = (line for line in server.log if line.startswith("error: "))
    assert last.startswith(f"error: the engine ended while serving: it died again: {fault}")
    assert WAY_OUT in last
    log = "".join(server.log)
    assert "bug in Dovetail" not in log
    assert "Traceback" not in log

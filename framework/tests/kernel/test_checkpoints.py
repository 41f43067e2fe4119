"""What a model reference leads to: sources, loaders, configurations, overrides, tokenizers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import (
    CheckpointError,
    ConfigError,
    NamingCard,
    PluginError,
    ResolutionError,
    ResolvedModel,
    SourceCard,
    UsageError,
)
from dovetail.api.checkpoint import HF_TOKENIZER
from dovetail.kernel.checkpoints import apply_overrides

from . import fakes
from .fakes import format_, kernel, loader, model, source
from .installation import CONFIG, configure, plan, reasons, weights

# Sources.


def test_sources_are_asked_by_rank_until_one_answers(folder: Path) -> None:
    found = plan(folder, source("first", "nowhere", rank=90), source("last", rank=10))
    assert found.source.part.name == "folder"
    assert reasons(found, "source") == {"first": "not a reference of its kind"}


def test_a_model_that_no_source_knows(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^wanted the model 'x', found no folder, file or hub repository of that name; check"
    ):
        plan("x", parts={"source": source("folder", "nowhere")})


def test_a_source_may_bring_a_generation_configuration_that_yields_to_the_checkpoint_s_own(folder: Path) -> None:
    parts = {"source": source("folder", "recommended")}
    found = plan(folder, parts=parts)
    assert found.source.reason == f"resolves to {folder}, and recommends temperature 0.2, top_k 9"
    assert found.checkpoint.generation_config == {"temperature": 0.2, "top_k": 9}
    (folder / "generation_config.json").write_text('{"top_k": 5}')
    assert plan(folder, parts=parts).checkpoint.generation_config == {"temperature": 0.2, "top_k": 5}


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("several", "answered a reference with list, wanted a path, a ResolvedModel or None; update it, or leave"),
        (
            "later",
            r"answered a reference with coroutine \(of an async def, and nothing is awaited here\), wanted a path",
        ),
        (
            "empty",
            r"answered '.*' with the path '', and nothing is there; wanted None for what it does not know; update",
        ),
        (
            "elsewhere",
            r"answered '.*' with the path '/nowhere/at/all', and nothing is there; wanted None .*; update it",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_source_that_answers_with_something_else_is_named(folder: Path, target: str, told: str) -> None:
    card = SourceCard(name="wild", rank=90, target=f"{__name__}:{target}")
    with pytest.raises(PluginError, match=rf"^the source wild \(base 1\.0\) {told}"):
        plan(folder, parts={"source": card})
    (warning,) = plan(folder, card).warnings  # another source knows it
    assert re.match(rf"the source wild \(more-0 1\.0\) {told}", warning)


def several(reference: str | None, **_: Any) -> list[str]:
    return [str(reference)]


async def later(reference: str | None, **_: Any) -> str | None:
    return reference


def empty(reference: str | None, **_: Any) -> str:
    return ""


def elsewhere(reference: str | None, **_: Any) -> ResolvedModel:
    return ResolvedModel("/nowhere/at/all")


# Loaders.


def test_the_loader_goes_by_the_names_of_the_files(folder: Path) -> None:
    (folder / "weights.x").touch()
    found = plan(folder, loader("other", "*.x", rank=90), loader("third", "*.y"))
    assert found.loader.part.name == "other"
    assert found.checkpoint.files == (str(folder / "weights.x"),)
    assert reasons(found, "loader")["third"] == "reads *.y; found config.json, weights.w, weights.x"
    assert plan(folder, loader("other", "*.x", rank=90), load_format="plain").loader.part.name == "plain"
    assert plan(folder / "weights.w", loader("other", "*.x", rank=90)).loader.part.name == "plain"


def test_a_loader_gets_all_files_of_its_patterns_in_order(folder: Path) -> None:
    for name in ("b.w", "a.w", "c.v", "d.x"):
        (folder / name).touch()
    found = plan(folder, parts={"loader": loader("plain", "*.w", "*.v")})
    assert [Path(f).name for f in found.checkpoint.files] == ["a.w", "b.w", "c.v", "weights.w"]


def test_an_explicit_loader_without_files_is_refused(folder: Path) -> None:
    with pytest.raises(
        ResolutionError, match=r"'other' was asked for but does not fit: reads \*\.x; found config\.json, weights\.w; "
    ):
        plan(folder, loader("other", "*.x"), load_format="other")


def test_a_loader_that_reads_no_files_is_taken_only_by_name(folder: Path) -> None:
    void = loader("void", rank=100, inspect=f"{fakes.__name__}:inspect_nothing").model_copy(update={"recognises": ()})
    found = plan(folder, void)
    assert found.loader.part.name == "plain"
    assert reasons(found, "loader")["void"] == "reads no files, so it is taken only by --load-format void"
    (folder / "weights.w").unlink()
    with pytest.raises(ResolutionError, match=r"^wanted weights \(\*\.w\) at"):
        plan(folder, void)
    named = plan(folder, void, load_format="void")
    assert named.loader.part.name == "void"
    assert named.checkpoint.files == ()


def test_a_folder_without_weights_says_what_is_in_it(folder: Path) -> None:
    (folder / "weights.w").unlink()
    with pytest.raises(
        ResolutionError, match=r"^wanted weights \(\*\.w\) at .*, found config\.json; complete the download, or install"
    ):
        plan(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ResolutionError, match=r"^wanted weights \(\*\.w\) at .*, found no files; complete"):
        plan(folder)


def test_what_is_neither_a_folder_nor_a_file_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^cannot read /dev/null "):
        plan("/dev/null")


# The configuration.


def test_a_missing_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"^wanted config\.json in .*, found none; complete the download, or name"
    ):
        plan(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", r"config\.json is not readable JSON \(Expecting property name"),
        ("", r"config\.json is not readable JSON"),
        ("[1]", r"config\.json holds a JSON list, wanted an object; repair"),
        ("[" * 100_000, r"config\.json is nested deeper than 64"),
        ("{}", r"config\.json names no architectures; name one with --hf-overrides"),
        (json.dumps({**CONFIG, "architectures": None}), r"config\.json names no architectures"),
        (json.dumps({**CONFIG, "architectures": []}), r"config\.json names no architectures"),
        (
            json.dumps({**CONFIG, "architectures": "Tiny"}),
            r"architectures is 'Tiny', wanted a list of names; for example",
        ),
        (json.dumps({**CONFIG, "architectures": 5}), "architectures is 5, wanted a list of names"),
        (json.dumps({**CONFIG, "architectures": [5]}), r"architectures is \[5\], wanted a list of names"),
        (json.dumps({**CONFIG, "architectures": {"a": 1}}), "architectures is {'a': 1}, wanted a list of names"),
        (json.dumps({**CONFIG, "hidden_size": None}), r"hidden_size: is missing"),
        (json.dumps({**CONFIG, "hidden_size": 0}), r"hidden_size: .*greater than 0 \(found 0\)"),
        (json.dumps({**CONFIG, "quantization_config": "awq"}), r"quantization_config: .*dictionary \(found 'awq'\)"),
        (
            json.dumps({"architectures": ["TinyForCausalLM"]}),
            r"^TinyConfig cannot be read from .*config\.json: vocab_size: is missing; hidden_size: is missing; num_hidden_layers: "
            r"is missing; correct the file, or override keys with --hf-overrides$",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_a_configuration_that_cannot_be_used_is_refused(folder: Path, content: str, told: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=told):
        plan(folder)


def test_a_configuration_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"config\.json is not readable JSON"):
        plan(folder)


class StumblingConfig(fakes.TinyConfig):
    """A configuration whose author did not think of every value."""

    def __init__(self, **_: Any) -> None:
        raise TypeError("unsupported operand")

    @classmethod
    def model_validate(cls, obj: Any, **_: Any) -> Any:
        return cls(**obj)


class SilentConfig(fakes.TinyConfig):
    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        super().prepare(data)  # type: ignore[return]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("StumblingConfig", "TypeError: unsupported operand"),
        ("SilentConfig", r"TypeError: SilentConfig\.prepare\(\) returned NoneType, wanted the dict of keys"),
    ],
)
def test_a_configuration_class_that_stumbles_is_named_with_the_file(folder: Path, name: str, told: str) -> None:
    with pytest.raises(
        PluginError,
        match=rf"^the model tiny \(base 1\.0\) failed to read .*config\.json with {name}: {told}.*; update it",
    ):
        plan(folder, parts={"model": model("tiny", config=f"{__name__}:{name}")})


def test_another_configuration_can_be_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    configure(other, max_position_embeddings=99)
    for path in (other, other / "config.json"):
        found = plan(folder, hf_config_path=str(path))
        assert found.max_model_len == 99
        assert found.checkpoint.config_file == str(other / "config.json")
    (folder / "config.json").unlink()
    assert plan(folder, hf_config_path=str(other)).max_model_len == 99


def test_older_checkpoints_have_their_quantization_in_a_file_of_its_own(folder: Path) -> None:
    weights(folder, int32=2)
    packed = format_("packed", ("int32",), methods=("gptq", "gptaq"), config_files=("quantize_config.json",))
    parts = (packed, kernel("any"))
    with pytest.raises(ResolutionError, match="'int32'"):
        plan(folder, *parts)
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4}))
    assert plan(folder, *parts).config["quantization_config"] == {"bits": 4, "quant_method": "gptq"}
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "quant_method": "gptaq"}))
    assert plan(folder, *parts).config["quantization_config"]["quant_method"] == "gptaq"
    configure(folder, quantization_config={"bits": 8, "quant_method": "gptq"})
    assert plan(folder, *parts).config["quantization_config"]["bits"] == 8


def test_who_quantized_a_checkpoint_may_stand_for_the_method(folder: Path) -> None:
    weights(folder, int32=2)
    parts = (format_("packed", ("int32",), methods=("tool",)), kernel("any"))
    configure(folder, quantization_config={"bits": 4, "producer": {"name": "tool", "version": "0.31"}})
    assert plan(folder, *parts).config["quantization_config"]["quant_method"] == "tool"
    for producer in ({"name": "another"}, {"name": ["tool"]}, "tool"):
        configure(folder, quantization_config={"bits": 4, "producer": producer})
        with pytest.raises(ResolutionError, match="'int32'"):
            plan(folder, *parts)


def test_another_configuration_that_is_not_there_is_refused(folder: Path) -> None:
    for path in (folder / "nowhere", folder / "nowhere.json"):
        with pytest.raises(
            CheckpointError, match=rf"^wanted a configuration at {path}, found none; correct --hf-config-path$"
        ):
            plan(folder, hf_config_path=str(path))


def test_the_generation_configuration_is_read_and_may_be_missing(folder: Path) -> None:
    assert plan(folder).checkpoint.generation_config == {}
    (folder / "generation_config.json").write_text('{"top_k": 5}')
    assert plan(folder).checkpoint.generation_config == {"top_k": 5}
    (folder / "generation_config.json").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"generation_config\.json is not readable JSON"):
        plan(folder)


# Overrides.


def test_overrides_merge_objects_and_replace_the_rest() -> None:
    config = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}, "f": 2}
    changes = {"a": {"c": [3]}, "d": 5, "f": {"g": 1}, "h": None}
    assert apply_overrides(config, changes) == {"a": {"b": 1, "c": [3]}, "d": 5, "f": {"g": 1}, "h": None}
    assert config == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}, "f": 2}


def test_a_callable_gets_a_copy() -> None:
    config: dict[str, Any] = {"a": {"b": 1}}

    def change(found: dict[str, Any]) -> dict[str, Any]:
        found["a"]["b"] = 2
        return found

    assert apply_overrides(config, change) == {"a": {"b": 2}}
    assert config == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (lambda c: None, "^hf_overrides returned NoneType, wanted the changed configuration as a dict"),
        (lambda c: {"dtype": object}, "^hf_overrides holds what JSON cannot .*; give texts, numbers, lists and dicts"),
        ({"a": {1, 2}}, "^hf_overrides holds what JSON cannot"),
    ],
)
def test_overrides_that_cannot_travel_are_refused(overrides: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        apply_overrides({}, overrides)


def test_overrides_decide_the_architecture(folder: Path) -> None:
    found = plan(folder, model("oak", "OakForCausalLM"), hf_overrides={"architectures": ["OakForCausalLM"]})
    assert (found.architecture, found.model_part.part.name) == ("OakForCausalLM", "oak")
    assert reasons(found, "model") == {"tiny": "offers TinyForCausalLM"}
    with pytest.raises(
        ResolutionError, match=r"^wanted a model plugin for the architecture Nope, found nothing that fits "
    ):
        plan(folder, hf_overrides={"architectures": ["Nope"]})


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        ({}, 64),
        ({"max_position_embeddings": 32}, 32),
        ({"text_config": {"max_position_embeddings": 32}}, 32),
        (lambda c: {**c, "max_position_embeddings": c["max_position_embeddings"] // 2}, 32),
    ],
)
def test_a_text_model_s_configuration_stands_at_the_top(folder: Path, overrides: Any, length: int) -> None:
    text = {"vocab_size": 12, "max_position_embeddings": 64, "eos_token_id": 5, "architectures": ["Text"]}
    configure(
        folder, text_config={**text, "dtype": None}, torch_dtype="float32", max_position_embeddings=7, vocab_size=9
    )
    found = plan(folder, hf_overrides=overrides)
    assert found.architecture == "TinyForCausalLM"
    assert (found.max_model_len, found.config["max_position_embeddings"]) == (length, length)
    assert (found.config["vocab_size"], found.config["eos_token_id"]) == (12, 5)
    parsed = found.build_model_config()
    assert (parsed.max_position_embeddings, parsed.dtype) == (length, "float32")
    assert parsed.architectures == ("TinyForCausalLM",)


def test_the_first_architecture_that_anyone_offers_is_taken(folder: Path) -> None:
    configure(folder, architectures=["Unknown", "TinyForCausalLM"])
    assert plan(folder).architecture == "TinyForCausalLM"


def test_two_models_of_one_architecture_go_by_rank(folder: Path) -> None:
    found = plan(folder, model("tuned", rank=100))
    assert found.model_part.part.name == "tuned"
    assert reasons(found, "model") == {"tiny": "fits, rank 50 is lower"}


# Containers with names of their own.

BOXED = {
    "loader": loader("plain", inspect=f"{fakes.__name__}:inspect_container"),
    "model": model("tiny", naming={"box": NamingCard(architectures=("tiny",), target=f"{fakes.__name__}:NAMING")}),
}


def test_a_container_s_metadata_become_the_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    found = plan(folder, parts=BOXED)
    assert found.config["hidden_size"] == 16
    assert found.naming == f"{fakes.__name__}:NAMING"
    assert (found.checkpoint.tokenizer, found.checkpoint.tokenizer_path) == ("box:tokenizer", str(folder / "weights.w"))


def test_a_container_s_metadata_give_way_to_another_configuration(folder: Path) -> None:
    found = plan(folder, parts=BOXED, hf_config_path=str(folder))
    assert found.config == CONFIG
    assert found.naming == f"{fakes.__name__}:NAMING"


def test_a_container_that_no_model_reads_is_refused(folder: Path) -> None:
    strange = model("tiny", naming={"box": NamingCard(architectures=("huge", "wide"), target="n:N")})
    with pytest.raises(
        ResolutionError,
        match=r"^wanted a model plugin for the box architecture 'tiny', found huge, wide; install the plugin that offers it, or",
    ):
        plan(folder, parts={**BOXED, "model": strange})
    with pytest.raises(ResolutionError, match="'tiny', found none; note that the broken plugin cracked may offer it"):
        plan(folder, parts={"loader": BOXED["loader"]}, broken="ValueError")


def test_an_architecture_that_cannot_read_the_container_s_names_is_refused(folder: Path) -> None:
    oak, elm = (
        model("oak", "Oak"),
        model("elm", "Elm", naming={"box": NamingCard(architectures=("elm",), target="n:N")}),
    )
    with pytest.raises(ResolutionError, match="oak: cannot read tensors named as in box"):
        plan(folder, oak, parts=BOXED, hf_overrides={"architectures": ["Oak"]})
    with pytest.raises(ResolutionError, match="elm: cannot read the box architecture 'tiny'"):
        plan(folder, elm, parts=BOXED, hf_overrides={"architectures": ["Elm"]})


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("CARELESS", " failed to translate the box metadata of .*: KeyError: 'depth' "),
        ("HASTY", " answered the box metadata of .* with list, wanted a dict; "),
        ("Careless", rf": {__name__}:Careless is a class, wanted an instance of it; update it, or leave it out with "),
        ("CARELESS.size", rf": {__name__}:CARELESS\.size lacks config, rename, row_order; update it, or leave it out"),
    ],
)
def test_a_naming_that_is_none_or_fails_is_named(folder: Path, target: str, told: str) -> None:
    bad = model("tiny", naming={"box": NamingCard(architectures=("tiny",), target=f"{__name__}:{target}")})
    with pytest.raises(PluginError, match=rf"^the model tiny \(base 1\.0\){told}"):
        plan(folder, parts={**BOXED, "model": bad})


def test_the_first_model_that_does_not_refuse_the_metadata_reads_them(folder: Path) -> None:
    choosy, other = (
        model(name, rank=90, naming={"box": NamingCard(architectures=("tiny",), target=f"{__name__}:{name.upper()}")})
        for name in ("choosy", "other")
    )
    found = plan(folder, choosy, parts=BOXED)
    assert found.model_part.part.name == "tiny"
    with pytest.raises(ConfigError, match=r"^the metadata say size = 16, wanted 8; make it smaller$"):
        plan(folder, parts={**BOXED, "model": choosy})
    told = (
        r"^choosy: the metadata say size = 16, wanted 8; other: the metadata say size = 16, wanted 9; make it smaller$"
    )
    with pytest.raises(ConfigError, match=told):
        plan(folder, other, parts={**BOXED, "model": choosy})


class Choosy(fakes.BoxNaming):
    """Refuses all sizes but one."""

    def __init__(self, size: int) -> None:
        self.size = size

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        raise ConfigError(f"the metadata say size = {metadata['size']}, wanted {self.size}", "make it smaller")


CHOOSY, OTHER = Choosy(8), Choosy(9)


class Careless(fakes.BoxNaming):
    """Asks for what the metadata lack."""

    size = 16

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        return {"num_hidden_layers": metadata["depth"]}


class Hasty(fakes.BoxNaming):
    def config(self, architecture: str, metadata: Mapping[str, Any]) -> Any:
        return list(metadata)


CARELESS, HASTY = Careless(), Hasty()


# The tokenizer.


def test_another_tokenizer_can_be_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("tokenizer")
    (other / "tokenizer.json").touch()
    for path in (other, other / "tokenizer.json"):
        checkpoint = plan(folder, parts=BOXED, tokenizer=str(path)).checkpoint
        assert (checkpoint.tokenizer, checkpoint.tokenizer_path) == (HF_TOKENIZER, str(path))


def test_the_tokenizer_of_another_container_can_be_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("weights")
    (other / "other.w").touch()
    for path in (other, other / "other.w"):
        checkpoint = plan(folder, parts=BOXED, tokenizer=str(path)).checkpoint
        assert (checkpoint.tokenizer, checkpoint.tokenizer_path) == ("box:tokenizer", str(other / "other.w"))


def test_a_tokenizer_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^wanted a tokenizer at ./nowhere, found nothing there; correct --tokenizer"
    ):
        plan(folder, tokenizer="./nowhere")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_configurations_may_begin_with_a_byte_order_mark(folder: Path, encoding: str) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "note": "é"}, ensure_ascii=False), encoding=encoding)
    (folder / "generation_config.json").write_text('{"top_k": 7}', encoding=encoding)
    found = plan(folder)
    assert found.config["note"] == "é"
    assert found.checkpoint.generation_config == {"top_k": 7}


# Names, and what files begin with.

INSPECT_PATH = f"{fakes.__name__}:inspect_path"


def signed() -> Any:
    return loader("signed", "*.s", signatures=("SIGN",), rank=10)


@pytest.mark.parametrize("name", ["model", "weights.bin", "sha256-0123", "MODEL.S"])
def test_a_file_is_known_by_its_first_bytes_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / name).write_text('SIGN{"float32": 3}')
    card = signed().model_copy(update={"inspect": f"{fakes.__name__}:inspect_signed"})
    for path in (tmp_path, tmp_path / name):
        found = plan(path, card)
        assert found.loader.part.name == "signed"
        assert found.checkpoint.files == (str(tmp_path / name),)


def test_the_first_bytes_count_more_than_the_name(folder: Path) -> None:
    (folder / "weights.w").write_text('SIGN{"float32": 3}')
    card = signed().model_copy(update={"inspect": f"{fakes.__name__}:inspect_signed"})
    assert plan(folder, card).loader.part.name == "signed"


def test_names_come_before_first_bytes_among_a_loader_s_own_files(folder: Path) -> None:
    for name in ("a.s", "a.s.bak"):
        (folder / name).write_text('SIGN{"float32": 3}')
    card = signed().model_copy(update={"inspect": f"{fakes.__name__}:inspect_signed", "rank": 90})
    assert plan(folder, card).checkpoint.files == (str(folder / "a.s"),)


def test_names_match_in_capitals(folder: Path) -> None:
    (folder / "weights.w").rename(folder / "WEIGHTS.W")
    assert plan(folder).checkpoint.files == (str(folder / "WEIGHTS.W"),)


def test_who_names_loader_and_file_means_that_file(folder: Path) -> None:
    (folder / "weights.w").rename(folder / "0123abc")
    with pytest.raises(ResolutionError, match=r"reads \*\.w; found 0123abc, config\.json"):
        plan(folder, load_format="plain")
    (folder / "0123abc").write_text('{"float32": 3}')
    with pytest.raises(ResolutionError, match=r"^wanted weights"):
        plan(folder / "0123abc")
    found = plan(folder / "0123abc", load_format="plain", parts={"loader": loader("plain", inspect=INSPECT_PATH)})
    assert found.checkpoint.files == (str(folder / "0123abc"),)


def test_links_into_a_cache_have_their_own_names(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    blob = tmp_path_factory.mktemp("blobs") / "0123abc"
    (folder / "weights.w").rename(blob)
    (folder / "weights.w").symlink_to(blob)
    assert plan(folder).checkpoint.files == (str(folder / "weights.w"),)
    blob.unlink()
    with pytest.raises(ResolutionError, match=r"found config\.json"):
        plan(folder)


def test_a_file_that_git_lfs_has_not_fetched_is_told(folder: Path) -> None:
    (folder / "weights.w").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(CheckpointError, match=r"weights\.w is a pointer of Git LFS, .*; fetch it with git lfs pull"):
        plan(folder)

"""The engine's options in a script of the user's own."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dovetail import AsyncEngineArgs, EngineArgs
from dovetail.api import UsageError
from dovetail.engine.args import OFFLINE_DEFAULTS
from dovetail.utils import FlexibleArgumentParser


def script() -> FlexibleArgumentParser:
    """As scripts for other engines are written."""
    made = EngineArgs.add_cli_args(FlexibleArgumentParser(description="a script"))
    made.set_defaults(model="some/model")
    made.add_argument("--prompts", nargs="+", default=["hi"])
    return made


def test_what_was_parsed_is_what_LLM_takes() -> None:  # noqa: N802
    found = vars(script().parse_args(["--max_model_len", "32k", "--hf-overrides.rope_scaling.factor", "2"]))
    assert found.pop("prompts") == ["hi"]
    assert EngineArgs(**found) == EngineArgs(
        model="some/model", max_model_len=32000, hf_overrides={"rope_scaling": {"factor": 2}}
    )


def test_a_script_may_look_at_every_option() -> None:
    found = script().parse_args([])
    missing = {name for name in EngineArgs.model_fields if not hasattr(found, name)}
    assert missing == set(OFFLINE_DEFAULTS)
    assert (found.model, found.seed, found.enable_prefix_caching) == ("some/model", 0, True)
    assert EngineArgs.from_cli_args(found) == EngineArgs(model="some/model")


def test_options_that_differ_offline_are_as_given() -> None:
    found = script().parse_args(["--max-decode-slowdown", "2.0"])
    assert "max_decode_slowdown" in EngineArgs.from_cli_args(found).model_fields_set


def test_a_plain_parser_takes_the_flags_too() -> None:
    found = EngineArgs.add_cli_args(argparse.ArgumentParser()).parse_args(["--no-enable-prefix-caching"])
    assert EngineArgs.from_cli_args(found).enable_prefix_caching is False


def test_a_group_of_a_script_shows_the_options_under_its_own_title(capsys: pytest.CaptureFixture[str]) -> None:
    made = FlexibleArgumentParser(prog="script")
    group = made.add_argument_group("Engine arguments")
    assert EngineArgs.add_cli_args(group) is group
    group.set_defaults(model="some/model")
    made.add_argument_group("Sampling parameters").add_argument("--top-k", type=int)
    with pytest.raises(SystemExit):
        made.parse_args(["--help"])
    _, _, shown = capsys.readouterr().out.partition("Engine arguments:")
    mine, _, others = shown.partition("Sampling parameters:")
    assert "--max-model-len" in mine
    assert "--plugins" in mine
    assert others.split()[0] == "--top-k"
    found = made.parse_args(["--max_model_len", "4k", "--top_k", "3", "--tensor-parallel-size", "1"])
    assert (found.top_k, EngineArgs.from_cli_args(found)) == (3, EngineArgs(model="some/model", max_model_len=4000))


def test_options_of_the_asynchronous_engine_are_the_same() -> None:
    found = AsyncEngineArgs.add_cli_args(argparse.ArgumentParser()).parse_args(["--max-num-seqs", "3"])
    assert AsyncEngineArgs.from_cli_args(found) == EngineArgs(max_num_seqs=3)


def test_options_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(
        "model: file/model\nmax-model-len: 4k\nenable_prefix_caching: false\nspeculative-config: {method: ngram}\n"
        "lora-modules: [a=b, c=d]\nmax-num-seqs: 7\n"
    )
    args = EngineArgs.from_cli_args(script().parse_args(["--config", str(file), "--max-num-seqs", "9"]))
    assert args == EngineArgs(
        model="file/model",
        max_model_len=4000,
        enable_prefix_caching=False,
        speculative_config={"method": "ngram"},
        lora_modules=["a=b", "c=d"],
        max_num_seqs=9,
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--max-logprobs", "-2"),
        ("--max-decode-slowdown", "-1"),
        ("--max-num-queued-requests", "-1"),
        ("--max-loras", "0"),
        ("--max-lora-rank", "0"),
        ("--max-cpu-loras", "0"),
    ],
)
def test_a_value_out_of_range_names_its_flag(flag: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} is {value}"):
        EngineArgs.from_cli_args(script().parse_args([flag, value]))

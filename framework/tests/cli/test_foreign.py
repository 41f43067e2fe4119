"""Command lines and scripts that people publish for other engines, up to the point where the model would be loaded."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dovetail import SamplingParams
from dovetail.api import DovetailError, UsageError
from dovetail.cli.connection import find_model_name
from dovetail.cli.main import COMMANDS, main
from dovetail.cli.parsing.parser import CommandParser
from dovetail.client.bench.options import ServeOptions
from dovetail.engine.args import EngineArgs
from dovetail.server.settings import ServerSettings
from dovetail.utils.flags import read_flags
from dovetail.utils.foreign.tables_by_command import (
    BATCH_OPTIONS,
    BENCH_OPTIONS,
    CHAT_OPTIONS,
    SCRIPT_OPTIONS,
    SERVE_OPTIONS,
)
from dovetail.utils.foreign.variables import VARIABLES, variable_notices
from dovetail.utils.foreign.vllm_sampling import SAMPLING

from .published.scripts import SCRIPTS, Script

PUBLISHED = Path(__file__).parent / "published"


def published(name: str) -> list[tuple[bool, str]]:
    """(whether it starts, the line), of a file."""
    lines = (PUBLISHED / name).read_text(encoding="utf-8").splitlines()
    return [(line[0] == "+", line[2:]) for line in lines if line[0] in "+-"]


def as_ours(line: str) -> list[str]:
    """The arguments behind the program's name, which alone is changed."""
    program = r"^(python3? -m vllm\.entrypoints\.openai\.api_server|cargo run .*? --|\S*candle-vllm)(?= )"
    line = re.sub(program, "serve", line)
    return shlex.split(line.removeprefix("vllm "))


def parse(*arguments: str) -> argparse.Namespace:
    """A command's options, read and checked as the command does."""
    command, *rest = arguments
    assert command in COMMANDS
    parser = CommandParser(prog=f"dovetail {command}")
    import_module(f"dovetail.cli.{command.replace('-', '_')}").add_arguments(parser)
    args = parser.parse_args(rest)
    args.model = find_model_name(args)
    args.engine, args.server = read_flags(EngineArgs, args), read_flags(ServerSettings, without_lists(args))
    if command == "bench":
        read_flags(ServeOptions, args).check()
    return args


def without_lists(args: argparse.Namespace) -> argparse.Namespace:
    """``--api-key`` of clients is one key, and no list."""
    return argparse.Namespace(**{k: v for k, v in vars(args).items() if k != "api_key" or isinstance(v, list)})


@pytest.mark.parametrize(("starts", "line"), [*published("vllm.txt"), *published("candle.txt")])
def test_a_published_line_starts_or_says_why_not(starts: bool, line: str) -> None:
    if starts:
        parse(*as_ours(line))
        return
    with pytest.raises(UsageError) as refused:
        parse(*as_ours(line))
    assert refused.value.hint
    assert "\n" not in str(refused.value)


def test_most_published_lines_start() -> None:
    vllm, candle = published("vllm.txt"), published("candle.txt")
    assert (len(vllm), len(candle)) == (50, 28)
    assert sum(starts for starts, _ in vllm) >= 35


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_a_published_script_gives_options_or_says_why_not(script: Script) -> None:
    if script.refused is None:
        EngineArgs(**script.llm)
        SamplingParams(**script.sampling)
        return
    with pytest.raises(DovetailError, match=script.refused):
        EngineArgs(**script.llm)


def test_there_are_twenty_scripts() -> None:
    assert len(SCRIPTS) == 20


# What becomes of each kind.

ROPE = '{"rope_type":"yarn","factor":4.0}'


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (f"serve --rope-scaling '{ROPE}' --rope-theta 1000000 --hf-overrides.a 1", "hf_overrides",
         {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 1000000, "a": 1}),
        ("serve --rope-scaling.factor 2 --rope_scaling.rope_type linear", "hf_overrides", {"rope_scaling": {"factor": 2, "rope_type": "linear"}}),
        ("serve --guided-decoding-backend outlines", "structured_outputs_backend", "auto"),
        ("serve --guided-decoding-backend mine", "structured_outputs_backend", "mine"),
        ("""serve --structured-outputs-config '{"backend": "mine", "reasoning_parser": "think"}'""", "reasoning_parser", "think"),
        ("serve --speculative-model a/b --num-speculative-tokens 5", "speculative_config", {"model": "a/b", "num_speculative_tokens": 5}),
        ("serve --speculative_model [words] --ngram-prompt-lookup-max 4", "speculative_config", {"method": "words", "prompt_lookup_max": 4}),
        ("serve --speculative-config.method words", "speculative_config", {"method": "words"}),
        ("""serve --override-pooler-config '{"pooling_type": "MEAN", "normalize": null}'""", "pooler_config", {"pooling_type": "mean"}),
        ("serve --generation-config vllm", "generation_config", "none"),
        ("serve --max-num-batched-tokens 8k", "max_num_batched_tokens", 8000),
        ("serve --max-num-batched-tokens=8K", "max_num_batched_tokens", 8192),
        ("serve --max-num-batched-tokens auto", "max_num_batched_tokens", None),
        ("serve --max-model-len -1", "max_model_len", None),
        ("serve --max-model-len None", "max_model_len", None),
        ("serve --dtype bf16", "dtype", "bfloat16"),
        ("serve --attention-backend FLASH_ATTN_VLLM_V1", "attention_backend", "auto"),
        ("serve --attention-config.backend mine", "attention_backend", "mine"),
        ("serve --enable-prefix-caching=false", "enable_prefix_caching", False),
        ("serve --enable_prefix_caching False", "enable_prefix_caching", False),
        ("serve --no_enable_prefix_caching", "enable_prefix_caching", False),
        ("serve --no-enable-prefix-caching=false", "enable_prefix_caching", True),
        ("serve --enable-prefix-caching model", "model", "model"),
        ("serve --task embedding", "task", "embed"),
        ("serve --w /path/ --f x.gguf", "model", "/path/x.gguf"),
        ("serve --w /path/", "model", "/path/"),
        ("serve --f x.gguf", "model", "x.gguf"),
        ("serve --m org/name --f x.gguf", "model", "org/name:x.gguf"),
        ("serve --fp8-kvcache", "kv_cache_dtype", "fp8"),
        ("serve --prefill-chunk-size 1024", "max_num_batched_tokens", 1024),
        ("serve --prefill-chunk-size 0", "max_num_batched_tokens", None),
        ("serve --temperature 0.5 --presence-penalty 1 --max-gen-tokens 9", "override_generation_config",
         {"temperature": 0.5, "presence_penalty": 1, "max_new_tokens": 9}),
        ("serve --cpu", "device", "cpu"),
        ("run-batch -i a -o b --model org/name", "model", "org/name"),
        ("plan --model org/name --max-num-seqs 4 --port 9", "model", "org/name"),
    ],
)  # fmt: skip
def test_an_alias_of_the_engine(line: str, name: str, value: Any) -> None:
    engine = parse(*shlex.split(line)).engine
    assert getattr(engine, name) == value


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--p 2000 --h 0.0.0.0", "port", 2000),
        ("--p 2000 --h 0.0.0.0", "host", "0.0.0.0"),
        ("--verbose", "enable_log_requests", True),
        ("--disable-log-requests", "enable_log_requests", False),
        ("--no-disable-log-requests", "enable_log_requests", True),
        ("""--allowed-origins '["*"]'""", "allowed_origins", ["*"]),
        ("""--allowed-origins '["https://a", "https://b"]' --allowed-origins c""", "allowed_origins", ["https://a", "https://b", "c"]),
        ("-asc 2", "api_server_count", 2),
    ],
)  # fmt: skip
def test_an_alias_of_the_server(line: str, name: str, value: Any) -> None:
    assert getattr(parse("serve", *shlex.split(line)).server, name) == value


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("bench serve --host localhost --port 81 --backend openai-chat", "url", "http://localhost:81"),
        ("bench serve --port 81 --backend openai-chat", "endpoint", "/v1/chat/completions"),
        ("bench serve --port 81 --temperature 0 --top-k 4", "extra_body", {"temperature": 0, "top_k": 4}),
        ("chat -q hello", "prompt", "hello"),
        ("chat --quick hello --system-prompt be", "system", "be"),
        ("complete -q hello", "prompt", "hello"),
    ],
)
def test_an_alias_of_another_command(line: str, name: str, value: Any) -> None:
    assert getattr(parse(*line.split()), name) == value


ACCEPTED = [
    "-tp 1", "--tensor-parallel-size=1", "-pp 1", "--trust-remote-code", "--enable-chunked-prefill", "--no-enable-chunked-prefill",
    "--enable-chunked-prefill true", "--disable-log-stats", "--swap-space 4", "-O3", "-O 3", "-O.level=3", "--compilation-config {}",
    "-cc.mode=3", "--compilation-config.cudagraph_mode NONE", "--distributed-executor-backend mp", "--enable-prompt-tokens-details",
    "--tokenizer-mode auto", "--tokenizer-mode mistral", "--language-model-only",
    "--enable-sleep-mode", "--num-scheduler-steps 8", "--cudagraph-capture-sizes 1 2 4 --seed 1", "--d 0", "--log", "--ui-server",
]  # fmt: skip


@pytest.mark.parametrize("options", ACCEPTED)
def test_what_needs_nothing_is_accepted_with_one_line(options: str) -> None:
    args = parse("serve", "org/name", *options.split())
    assert args.model == "org/name"
    (notice,) = args.notices
    assert notice.startswith(re.split(r"[\s=.\d]", options)[0])
    assert ": " in notice


@pytest.mark.parametrize("limit", [" image=4", ".image 4", ' {"image":4}', ".image=4"])
def test_limits_of_images_in_every_form(limit: str) -> None:
    assert parse("serve", *f"--limit-mm-per-prompt{limit}".split()).limit_mm_per_prompt == {"image": 4}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("serve --tensor-parallel-size 2", "--tensor-parallel-size 2: a model is not split over several devices yet; take"),
        ("serve -tp=2 --isq q4k", r"-tp 2: a model .* \(take .*\); --isq q4k: nothing is quantized while it is loaded; take"),
        ("serve --d 0,1", "--d 0,1: one process runs a model on one device"),
        ("serve --kv-transfer-config {\"a\":1}", "--kv-transfer-config .*: prompts and answers are computed by one engine"),
        ("serve --tokenizer-mode other", "--tokenizer-mode other: there is one kind of tokenizer"),
        ("serve --config-format other", "--config-format other: configurations are read in the form of transformers"),
        ("serve --swap-space", "argument --swap-space: expected one argument; see dovetail serve --help"),
        ("bench latency --temperature 0", "--temperature 0: it is extra-body here, which dovetail bench latency does not have"),
        ("chat --disable-log-requests", "unrecognized arguments: --disable-log-requests"),
        ("serve --hf-token-path abc", "--hf-token-path abc: .*HF_TOKEN"),
        ("serve --logits-processors=vllm.a:B", "--logits-processors vllm.a:B: it is a class of vLLM"),
        ("serve a --model b", "two models were named"),
        ("run-batch -i a -o b c --model d", "two models were named"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(line: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse(*line.split())


# Files of flags.


def test_entries_of_a_file_are_read_by_the_same_table(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "model: org/name\ntensor-parallel-size: 1\nrope_scaling: {factor: 2}\ntrust_remote_code: true\nseed: null\n"
        "swap_space: null\ngeneration-config: vllm\nallowed-origins: ['*']\nenable_chunked_prefill: false\nmax-num-batched-tokens: 8k\n"
    )
    args = parse("serve", "--config", str(file), "--hf-overrides.a", "1")
    assert (args.model, args.engine.seed, args.engine.generation_config) == ("org/name", 0, "none")
    assert (args.engine.max_num_batched_tokens, args.server.allowed_origins) == (8000, ["*"])
    assert args.engine.hf_overrides == {"a": 1}  # the command line's, as ever
    assert len(args.notices) == 3
    assert parse("serve", "--config", str(file)).engine.hf_overrides == {"rope_scaling": {"factor": 2}}


def test_a_file_names_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("prot: 9\ntensor_parallel_size: 2\nnope: 1\n")
    with pytest.raises(UsageError) as refused:
        parse("serve", "--config", str(file))
    told = str(refused.value)
    assert "there is no flag --prot (did you mean --port?)" in told
    assert "there is no flag --nope" in told
    assert "tensor_parallel_size: 2: a model is not split" in told
    assert "\n" not in told


# Scripts.


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"rope_scaling": {"factor": 2}, "hf_overrides": {"a": 1}}, "hf_overrides", {"a": 1, "rope_scaling": {"factor": 2}}),
        ({"seed": None, "block_size": None, "dtype": None}, "block_size", 16),
        ({"max_num_batched_tokens": "8k"}, "max_num_batched_tokens", 8000),
        ({"compilation_config": 3, "swap_space": 0}, "seed", 0),
        ({"enable_expert_parallel": False, "headless": False}, "seed", 0),
        ({"cpu_offload_gb": 4}, "cpu_offload_gb", 4),
    ],
)  # fmt: skip
def test_keyword_arguments(given: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(EngineArgs(**given), name) == value


def test_unknown_keyword_arguments_are_all_named() -> None:
    with pytest.raises(UsageError) as refused:
        EngineArgs(max_model_ln=3, nope=1)
    assert "there is no option max_model_ln (did you mean max_model_len?)" in str(refused.value)
    assert "there is no option nope" in str(refused.value)


def test_a_key_for_overrides_that_are_a_callable() -> None:
    with pytest.raises(
        UsageError, match="rope_theta=1: it goes into hf_overrides, which is no object; set rope_theta in"
    ):
        EngineArgs(rope_theta=1, hf_overrides=lambda config: config)


def test_notices_of_scripts_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    EngineArgs(tensor_parallel_size=1)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "note: tensor_parallel_size=1: one process runs a model on one device\n")


def test_sampling_parameters() -> None:
    assert SamplingParams(temperature=None, top_p=None, stop=None) == SamplingParams()
    assert SamplingParams(max_tokens=None).max_tokens is None
    assert SamplingParams(guided_decoding={"regex": "a", "backend": "x"}).structured_outputs.regex == "a"  # type: ignore[union-attr]
    assert SamplingParams(guided_choice=["a"]).structured_outputs.choice == ["a"]  # type: ignore[union-attr]
    with pytest.raises(DovetailError, match=r"use_beam_search=true: .* call LLM.beam_search"):
        SamplingParams(use_beam_search=True)
    with pytest.raises(DovetailError, match=r"there is no option tempurature \(did you mean temperature\?\)"):
        SamplingParams(tempurature=1)


# The tables.


@pytest.mark.parametrize("table", [SERVE_OPTIONS, CHAT_OPTIONS, BATCH_OPTIONS, BENCH_OPTIONS, SCRIPT_OPTIONS])
def test_every_entry_says_what_becomes_of_it(table: Any) -> None:
    for option in table:
        assert option.to or option.convert or option.notice or option.reason, option.name
        assert not option.reason or option.instead, option.name
        assert option.only is None or option.reason, option.name


def test_no_entry_hides_behind_an_option_of_ours() -> None:
    own = {*EngineArgs.model_fields, *ServerSettings.model_fields}
    assert not [option.name for option in SERVE_OPTIONS if option.name.replace("-", "_") in own]


def test_unknown_flags_and_their_values_name_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--swap-spce", "4"]) == 2
    told = "error: unknown arguments: --swap-spce (did you mean --swap-space?); see dovetail serve --help\n"
    assert capsys.readouterr().err == told


def test_flags_that_the_tables_speak_of_exist() -> None:
    tables = (SERVE_OPTIONS, CHAT_OPTIONS, BATCH_OPTIONS, BENCH_OPTIONS, SCRIPT_OPTIONS, SAMPLING)
    texts = [*VARIABLES.values()]
    texts += [text for table in tables for o in table for text in (o.notice, o.reason, o.instead)]
    known = {option.name for table in tables for option in table}
    for command in ("serve", "run-batch", "bench"):
        parser = CommandParser(prog="dovetail")
        import_module(f"dovetail.cli.{command.replace('-', '_')}").add_arguments(parser)
        parsers = [parser]
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
        known |= {flag[2:] for p in parsers for flag in p._option_string_actions if flag.startswith("--")}
    assert {flag for text in texts for flag in re.findall(r"--([a-z][a-z-]+[a-z])", text)} <= known


# Variables.


def test_every_variable_gets_a_line_and_those_without_equivalent_one_together() -> None:
    given = {"VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_X": "1", "VLLM_A": "", "VLLM_API_KEY": "k", "HOME": "/"}
    assert variable_notices(given) == [
        "VLLM_LOGGING_LEVEL is set, and is not read: give --log-level",
        "VLLM_A, VLLM_X are set, and not read here",
    ]
    assert variable_notices({"VLLM_API_KEY": "k"}) == []

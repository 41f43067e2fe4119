"""The page that says what the options of other engines become: made from the tables that the commands and ``LLM`` read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dovetail.server.settings import API_KEY_VARIABLE, FOREIGN_KEY_VARIABLE
from dovetail.utils.foreign import candle_vllm as candle_options
from dovetail.utils.foreign import vllm_engine as engine_options
from dovetail.utils.foreign import vllm_parallel as parallel_options
from dovetail.utils.foreign import vllm_server as server_options
from dovetail.utils.foreign import vllm_speed as speed_options
from dovetail.utils.foreign.option import FILE, FOLDER, HOST, PORT, REPOSITORY, ForeignOption, Table
from dovetail.utils.foreign.own_values import OWN_VALUES
from dovetail.utils.foreign.variables import VARIABLES
from dovetail.utils.foreign.vllm_sampling import SAMPLING

TITLE = "Coming from vLLM or candle-vllm"
INTRODUCTION = """
The command lines and scripts that people have for vLLM and candle-vllm work as they are, as far as what they ask for is built: change the
program's name. Every option of those programs is one of three things here:

- **an alias**: another name of an option of ours, or another way to write its value;
- **accepted**: what it asks for is done anyway, or it is a knob of speed that means nothing here. One line on standard error says so;
- **refused**: the command says why in one line, and what to do instead. Nothing is passed over in silence.

Options that are not listed have the same name here: [options.md](options.md). The lists hold for the command line (with hyphens or
underscores, `--flag=value` or `--flag value`, `--no-flag` or `--flag=false`), for `--config` files, and for the keyword arguments of `LLM` and
`EngineArgs`. `None` (`null` in a file) is the default everywhere. Parts of an option that is a JSON object may stand behind dots:
`--rope-scaling.factor 4`.
""".strip()
PROGRAMS = [
    ("`vllm serve MODEL …`", "`dovetail serve MODEL …`"),
    ("`python -m vllm.entrypoints.openai.api_server --model MODEL …`", "`dovetail serve --model MODEL …`"),
    ("`docker run … vllm/vllm-openai --model MODEL …`", "`dovetail serve --model MODEL …`"),
    ("`vllm chat`, `complete`, `run-batch`, `bench serve` and the other benchmarks", "`dovetail chat` and so on"),
    ("`from vllm import LLM, SamplingParams`", "`from dovetail import LLM, SamplingParams`"),
    ("`candle-vllm …`, `target/release/candle-vllm …`", "`dovetail serve …`"),
    ("`cargo run --release --features cuda -- …`", "`dovetail serve …`"),
]
CANDLE = """
What `--features` chooses at build time is chosen at the start here, by what is installed and present: `dovetail plan` shows it, and
`--device` says otherwise. candle-vllm listens on port 2000 of every address by default; `dovetail serve` on port 8000 of this machine alone.
""".strip()
PARTS = {
    FILE: "`MODEL`",
    FOLDER: "`MODEL`",
    REPOSITORY: "`MODEL`",
    HOST: "`--url`",
    PORT: "`--url`",
    "model": "`MODEL`",
}

MakeTable = Callable[[tuple[str, ...], Iterable[tuple[str, ...]]], str]


def foreign_page(note: str, table: MakeTable) -> str:
    """The page.

    Args:
        note: its first line.
        table: heads and rows → Markdown.
    """
    head = ("option", "here", "")
    flag, keyword = "--{}".format, lambda name: name.replace("-", "_")
    out = [note, f"# {TITLE}", INTRODUCTION, table(("there", "here"), PROGRAMS)]
    for title, options in (
        ("vLLM: the model", engine_options.MODEL),
        ("vLLM: several devices", parallel_options.PARALLEL),
        ("vLLM: speed and scheduling", speed_options.SPEED),
        ("vLLM: cache and offloading", engine_options.CACHES),
        ("vLLM: structured outputs and reasoning", engine_options.STRUCTURE),
        ("vLLM: speculation", engine_options.SPECULATION),
        ("vLLM: images, audio, video", engine_options.VISION),
        ("vLLM: the server", server_options.SERVER),
        ("vLLM: chat and complete", server_options.CHAT),
        ("vLLM: run-batch", server_options.BATCH),
        ("vLLM: benchmarks", server_options.BENCH),
    ):
        out += [f"## {title}", table(head, rows(options, flag))]
    out += ["## vLLM: `LLM` and `EngineArgs`", "All of the engine's options above, with underscores, and these:"]
    out += [table(head, rows(server_options.SCRIPT, keyword))]
    out += ["## vLLM: `SamplingParams`", table(head, rows(SAMPLING, keyword))]
    out += ["## Values", "Values that other engines have for options of the same name:"]
    out += [table(("option", "there", "here"), value_rows())]
    out += ["## candle-vllm", CANDLE, table(head, rows(candle_options.CANDLE_ENGINE, flag))]
    out += ["And of `serve`:", table(head, rows(candle_options.CANDLE_SERVER, flag))]
    out += ["## Environment variables"]
    out += [
        f"`{FOREIGN_KEY_VARIABLE}` is read where no other key is given, so that a server that was closed stays closed; its name here is "
        f"`{API_KEY_VARIABLE}`. Every other variable whose name begins with `VLLM_` gets a line at the start, with what does the same:"
    ]
    out += [table(("variable", "instead"), [(f"`{name}`", text) for name, text in VARIABLES.items()])]
    return "\n\n".join(out) + "\n"


def rows(options: Table, spell: Callable[[str], str]) -> Iterator[tuple[str, ...]]:
    for option in sorted(options, key=lambda option: option.name):
        names = ", ".join(f"`{name}`" for name in (spell(option.name), *option.short))
        yield names, *outcome(option, spell)


def outcome(option: ForeignOption, spell: Callable[[str], str]) -> tuple[str, str]:
    if option.kind == "alias":
        name, _, path = option.to.partition(".")
        ours = PARTS.get(name) or (
            f"`{spell(name.replace('_', '-'))}{f'.{path}' if path else ''}`" if name else "alias"
        )
        return ours, option.detail
    refusal = f"{option.reason}; {option.instead}"
    if option.kind == "refused":
        return "refused", refusal
    if option.only is None:
        return "accepted", option.notice
    values = ", ".join(f"`{value}`" for value in dict.fromkeys(map(str, option.only)) if value)
    return (f"accepted: {values}" if values else "refused"), f"{option.notice}. Others: {refusal}"


def value_rows() -> Iterator[tuple[str, ...]]:
    for own in OWN_VALUES:
        values = ", ".join(value if value == "…" else f"`{value}`" for value in own.values)
        yield f"`--{own.name.replace('_', '-')}`", values, f"`auto`: {own.detail}" if own.notice else own.detail

"""Parsers of tool calls: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import PORTABLE, REFERENCE, TUNED, ToolParserCard, hookimpl

EVERY = ("",)
"""Is found in every template."""
TOOL_CALL = ("<tool_call>", "</tool_call>")
DEEPSEEK = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)
KIMI = (
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
)
HARMONY = ("<|channel|>", "<|constrain|>", "<|message|>", "<|call|>", "<|start|>", "<|end|>")

ALIASES = {
    "glm4": ("glm45", "glm47"),
    "hermes": ("granite4",),
    "llama4": ("llama4_pythonic", "llama4_json"),
    "phi4": ("phi4_mini_json",),
    "qwen3_coder": ("qwen3_xml", "step3p5"),
    "apriel": ("minimax",),
    "harmony": ("openai",),
}
"""Other names of the same parsers, which users of vLLM know."""


def card(
    name: str,
    target: str,
    summary: str,
    recognises: tuple[str, ...],
    special: tuple[str, ...] = (),
    rank: int = PORTABLE,
) -> ToolParserCard:
    return ToolParserCard(
        name=name,
        summary=summary,
        target=f"dovetail_parsers_tools.{target}",
        recognises=recognises,
        special_tokens=special,
        rank=rank,
    )


@hookimpl
def dovetail_register_parsers() -> list[ToolParserCard]:
    cards = [
        card(
            "hermes",
            "hermes:Hermes",
            "<tool_call>{…}</tool_call>: Hermes, Qwen 2.5 and 3, Granite 4",
            (r"<tool_call>(\\n)?\s*['\"]?\s*\{", "within <tool_call></tool_call> XML tags"),
            TOOL_CALL,
        ),
        card(
            "qwen3_coder",
            "tagged:Qwen3Coder",
            "<function=…><parameter=…>: Qwen 3 Coder and 3.5",
            (r"<tool_call>(\\n)?\n?<function=",),
            TOOL_CALL,
            TUNED,
        ),
        card(
            "seed_oss",
            "tagged:SeedOss",
            "<seed:tool_call><function=…>: Seed OSS",
            ("<seed:tool_call>",),
            ("<seed:tool_call>", "</seed:tool_call>"),
            TUNED,
        ),
        card(
            "glm4",
            "tagged:Glm4",
            "<arg_key>…</arg_key>: GLM 4.5 to 4.7",
            ("</arg_key>",),
            (*TOOL_CALL, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
            TUNED,
        ),
        card(
            "minimax_m2",
            "tagged:MiniMaxM2",
            '<invoke name="…">: MiniMax M2',
            ("minimax:tool_call",),
            ("<minimax:tool_call>", "</minimax:tool_call>"),
            TUNED,
        ),
        card(
            "deepseek_v32",
            "tagged:DeepSeekV32",
            "<｜DSML｜function_calls>: DeepSeek V3.2",
            ("DSML｜function_calls", r"dsml_token \+ ['\"]function_calls"),
            ("｜DSML｜",),
            TUNED,
        ),
        card(
            "deepseek_v4",
            "tagged:DeepSeekV4",
            "<｜DSML｜tool_calls>: DeepSeek V4",
            ("DSML｜tool_calls", r"dsml_token \+ ['\"]tool_calls"),
            ("｜DSML｜",),
            TUNED,
        ),
        card(
            "deepseek_v3",
            "deepseek:DeepSeekV3",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>: DeepSeek V3 and R1",
            ("<｜tool▁call▁begin｜>",),
            DEEPSEEK,
        ),
        card(
            "deepseek_v31",
            "deepseek:DeepSeekV31",
            "<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}: DeepSeek V3.1",
            (r"<｜tool▁call▁begin｜>'\s*\+\s*tool\['function'\]\['name'\]",),
            DEEPSEEK,
            TUNED,
        ),
        card(
            "kimi_k2",
            "kimi:KimiK2",
            "<|tool_call_begin|>functions.…: Kimi K2",
            (r"<\|tool_call_argument_begin\|>",),
            KIMI,
        ),
        card("mistral", "mistral:Mistral", "[TOOL_CALLS][{…}]: Mistral", (r"\[TOOL_CALLS\]",), ("[TOOL_CALLS]",)),
        card(
            "mistral_args",
            "mistral:NamedMistral",
            "[TOOL_CALLS]…[ARGS]{…}: Mistral since tokenizer version 11",
            (r"\[ARGS\]",),
            ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
            TUNED,
        ),
        card(
            "granite",
            "listed:Granite",
            "<|tool_call|>[{…}]: Granite 3",
            (r"<\|tool_call\|> followed by a JSON list",),
            ("<|tool_call|>",),
            TUNED,
        ),
        card(
            "phi4",
            "listed:Phi4",
            "functools[{…}]: Phi 4 mini",
            (r"functools\[", r"<\|/tool_call\|>"),
            ("<|tool_call|>", "<|/tool_call|>"),
        ),
        card(
            "internlm",
            "listed:InternLM",
            "<|action_start|><|plugin|>{…}: InternLM 2",
            (r"<\|plugin\|>",),
            ("<|action_start|>", "<|plugin|>", "<|action_end|>"),
        ),
        card(
            "cohere_command3",
            "listed:Command",
            "<|START_ACTION|>[{…}]: Command R7B and A",
            (r"<\|START_ACTION\|>",),
            ("<|START_ACTION|>", "<|END_ACTION|>"),
        ),
        card(
            "nemotron",
            "listed:Nemotron",
            "<TOOLCALL>[{…}]: Nemotron Nano 2",
            ("<TOOLCALL>",),
            ("<TOOLCALL>", "</TOOLCALL>"),
        ),
        card(
            "apriel",
            "listed:Apriel",
            "<tool_calls>[{…}]: Apriel, MiniMax M1",
            (r"<tool_calls>(\\n|\n)?[\['{]",),
            ("<tool_calls>", "</tool_calls>"),
            TUNED,
        ),
        card(
            "harmony",
            "harmony:Harmony",
            "commentary to=functions.…: gpt-oss",
            (r"to=functions\.|commentary channel: 'functions'",),
            HARMONY,
        ),
        card(
            "llama3_json",
            "llama:Llama3Json",
            '{"name": …, "parameters": {…}}: Llama 3',
            (r"Respond in the format \{\"name\": function name, \"parameters\"",),
            ("<|python_tag|>",),
        ),
        card(
            "llama4",
            "pythonic:Llama4",
            "[…(…=…)] or JSON, perhaps behind <|python_start|>: Llama 4",
            (r"<\|python_start\|>",),
            ("<|python_start|>", "<|python_end|>"),
            TUNED,
        ),
        card(
            "lfm2",
            "pythonic:Lfm2",
            "<|tool_call_start|>[…(…=…)]: LFM 2",
            (r"<\|tool_call_start\|>", r"<\|tool_list_start\|>"),
            ("<|tool_call_start|>", "<|tool_call_end|>"),
        ),
        card("pythonic", "pythonic:Pythonic", "[…(…=…)]: Llama 3.2 and others", (r"\[func_name1\(",)),
        card(
            "json",
            "bare:BareJson",
            "bare JSON objects that name a tool, for models without a notation of their own",
            EVERY,
            rank=REFERENCE,
        ),
    ]
    others = [c.model_copy(update={"name": name, "recognises": ()}) for c in cards for name in ALIASES.get(c.name, ())]
    return [*cards, *others]

"""Cards of the formats with JSON arguments."""

from __future__ import annotations

from dovetail.api import REFERENCE, TUNED
from dovetail_parsers_tools.cards import TOOL_CALL, card

EVERY = ("",)
"""A pattern that matches every template."""
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

GIGACHAT = ("<|message_sep|>", "<|role_sep|>")
SOLAR = (
    "<|tool_calls|>",
    "<|tool_call:begin|>",
    "<|tool_call:name|>",
    "<|tool_call:args|>",
    "<|tool_call:end|>",
    "<|calls|>",
)

CARDS = [
    card(
        "hermes",
        "json_arguments.hermes:Hermes",
        "<tool_call>{…}</tool_call>: Hermes, Qwen 2.5 and 3, Granite 4",
        (r"<tool_call>(\\n)?\s*['\"]?\s*\{", "within <tool_call></tool_call> XML tags"),
        TOOL_CALL,
    ),
    card(
        "deepseek_v3",
        "json_arguments.deepseek:DeepSeekV3",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>: DeepSeek V3 and R1",
        ("<｜tool▁call▁begin｜>",),
        DEEPSEEK,
    ),
    card(
        "deepseek_v31",
        "json_arguments.deepseek:DeepSeekV31",
        "<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}: DeepSeek V3.1",
        (r"<｜tool▁call▁begin｜>'\s*\+\s*tool\['function'\]\['name'\]",),
        DEEPSEEK,
        TUNED,
    ),
    card(
        "kimi_k2",
        "json_arguments.kimi:KimiK2",
        "<|tool_call_begin|>functions.…: Kimi K2",
        (r"<\|tool_call_argument_begin\|>",),
        KIMI,
    ),
    card(
        "mistral",
        "json_arguments.mistral:Mistral",
        "[TOOL_CALLS][{…}]: Mistral",
        (r"\[TOOL_CALLS\]",),
        ("[TOOL_CALLS]",),
    ),
    card(
        "mistral_args",
        "json_arguments.mistral:NamedMistral",
        "[TOOL_CALLS]…[ARGS]{…}: Mistral since tokenizer version 11",
        (r"\[ARGS\]",),
        ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
        TUNED,
    ),
    card(
        "granite",
        "json_arguments.json_lists:Granite",
        "<|tool_call|>[{…}]: Granite 3",
        (r"<\|tool_call\|> followed by a JSON list",),
        ("<|tool_call|>",),
        TUNED,
    ),
    card(
        "phi4",
        "json_arguments.json_lists:Phi4",
        "functools[{…}]: Phi 4 mini",
        (r"functools\[", r"<\|/tool_call\|>"),
        ("<|tool_call|>", "<|/tool_call|>"),
    ),
    card(
        "internlm",
        "json_arguments.json_lists:InternLM",
        "<|action_start|><|plugin|>{…}: InternLM 2",
        (r"<\|plugin\|>",),
        ("<|action_start|>", "<|plugin|>", "<|action_end|>"),
    ),
    card(
        "cohere_command3",
        "json_arguments.json_lists:Command",
        "<|START_ACTION|>[{…}]: Command R7B and A",
        (r"<\|START_ACTION\|>",),
        ("<|START_ACTION|>", "<|END_ACTION|>"),
    ),
    card(
        "nemotron",
        "json_arguments.json_lists:Nemotron",
        "<TOOLCALL>[{…}]: Nemotron Nano 2",
        ("<TOOLCALL>",),
        ("<TOOLCALL>", "</TOOLCALL>"),
    ),
    card(
        "apriel",
        "json_arguments.json_lists:Apriel",
        "<tool_calls>[{…}]: Apriel, MiniMax M1",
        (r"<tool_calls>(\\n|\n)?[\['{]",),
        ("<tool_calls>", "</tool_calls>"),
        TUNED,
    ),
    card(
        "harmony",
        "json_arguments.harmony:Harmony",
        "commentary to=functions.…: gpt-oss",
        (r"to=functions\.|commentary channel: 'functions'",),
        HARMONY,
    ),
    card(
        "llama3_json",
        "json_arguments.llama:Llama3Json",
        '{"name": …, "parameters": {…}}: Llama 3',
        (r"Respond in the format \{\"name\": function name, \"parameters\"",),
        ("<|python_tag|>",),
    ),
    card(
        "granite-20b-fc",
        "json_arguments.json_lists:Granite20bFunctionCalling",
        "<function_call>{…}: Granite 20B for calling functions",
        ("<function_call>",),
        ("<function_call>",),
    ),
    card(
        "longcat",
        "json_arguments.json_lists:LongCat",
        "<longcat_tool_call>{…}: LongCat",
        ("<longcat_tool_call>",),
        ("<longcat_tool_call>", "</longcat_tool_call>"),
    ),
    card(
        "gigachat3",
        "json_arguments.json_lists:GigaChat3",
        "function call<|role_sep|>{…}: GigaChat 3",
        (r"<\|role_sep\|>[\s\S]*'function call'", r"'function call'[\s\S]*<\|role_sep\|>"),
        GIGACHAT,
    ),
    card(
        "gigachat31",
        "json_arguments.json_lists:GigaChat31",
        "<|function_call|>{…}: GigaChat 3.1",
        (r"<\|function_call\|>",),
        ("<|function_call|>", *GIGACHAT),
        TUNED,
    ),
    card(
        "apertus",
        "json_arguments.json_lists:Apertus",
        '<|tools_prefix|>[{"…": {…}}]: Apertus',
        (r"<\|tools_prefix\|>",),
        ("<|tools_prefix|>", "<|tools_suffix|>"),
    ),
    card(
        "inkling",
        "json_arguments.json_lists:Inkling",
        "<|content_invoke_tool_json|>{…}: Inkling",
        (r"<\|content_invoke_tool_json\|>",),
        ("<|content_invoke_tool_json|>", "<|message_model|>", "<|end_message|>"),
    ),
    card(
        "solar_open",
        "json_arguments.solar:SolarOpen",
        "<|tool_call:begin|>…<|tool_call:args|>{…}: Solar Open",
        (r"<\|tool_call:args\|>",),
        SOLAR,
    ),
    card(
        "functionary_v31",
        "json_arguments.functionary:FunctionaryV31",
        "<function=…>{…}</function>: Functionary 3.1",
        (r"<function=\w+>\{",),
    ),
    card(
        "functionary_v32",
        "json_arguments.functionary:FunctionaryV32",
        ">>>…, and a line on with {…}: Functionary 3.2",
        (r">>>\$\{recipient\}",),
    ),
    card(
        "xlam",
        "json_arguments.bare:Xlam",
        "a bare list [{…}]: xLAM 2",
        ("make calls in a single JSON array",),
        TOOL_CALL,
        TUNED,
    ),
    card(
        "json",
        "json_arguments.bare:BareJson",
        "bare JSON objects that name a tool, for models without a notation of their own",
        EVERY,
        rank=REFERENCE,
    ),
]

"""Cards of the notations that write arguments otherwise than as JSON: between tags, in Python's notation, in one of their own."""

from __future__ import annotations

from dovetail.api import TUNED
from dovetail_parsers_tools.cards import TOOL_CALL, card

HUNYUAN = (
    "<tool_calls:opensource>",
    "</tool_calls:opensource>",
    "<tool_call:opensource>",
    "</tool_call:opensource>",
    "<tool_sep:opensource>",
    "<arg_key:opensource>",
    "</arg_key:opensource>",
    "<arg_value:opensource>",
    "</arg_value:opensource>",
)
STEP = (
    "<｜tool_calls_begin｜>",
    "<｜tool_call_begin｜>",
    "<｜tool_sep｜>",
    "<｜tool_call_end｜>",
    "<｜tool_calls_end｜>",
)

CARDS = [
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
        "hy_v3",
        "tagged:HyV3",
        "<tool_call:opensource>…<arg_key:opensource>: Hunyuan 3",
        ("HYTK = ':opensource'", "<tool_sep:opensource>"),
        HUNYUAN,
    ),
    card(
        "kimi_k3",
        "tagged:KimiK3",
        '<|open|>call tool="…"<|sep|>: Kimi K3',
        (r"<\|open\|>",),
        ("<|open|>", "<|close|>", "<|sep|>"),
    ),
    card(
        "minimax_m3",
        "minimax:MiniMaxM3",
        ']<]minimax[>[<invoke name="…">, and tags named for the arguments: MiniMax M3',
        (r"\]<\]minimax\[>\[",),
        ("]<]minimax[>[",),
    ),
    card(
        "minicpm5",
        "tagged:MiniCpm5",
        '<function name="…"><param name="…">: MiniCPM 5',
        ('<function name="',),
    ),
    card(
        "muse_glimmer",
        "tagged:MuseGlimmer",
        '<atem:invoke name="…">: Muse Glimmer',
        ("<atem:function_calls>",),
    ),
    card(
        "solar_open2",
        "tagged:SolarOpen2",
        "<|tool_call:start|>…<|tool_arg:start|>: Solar Open 2",
        (r"<\|tool_arg:start\|>",),
        ("<|tool_call:start|>", "<|tool_call:end|>", "<|tool_arg:start|>", "<|tool_arg:value|>", "<|tool_arg:end|>"),
    ),
    card(
        "step3",
        "tagged:Step3",
        '<steptml:invoke name="…">: Step 3',
        ("<steptml:invoke",),
        STEP,
    ),
    card(
        "longcat_pairs",
        "tagged:LongCatPairs",
        "<longcat_tool_call>…<longcat_arg_key>: LongCat with arguments one by one",
        ("longcat_arg_key",),
        ("<longcat_tool_call>", "</longcat_tool_call>"),
        TUNED,
    ),
    card(
        "gemma4",
        "gemma:Gemma4",
        "<|tool_call>call:…{…}: Gemma 4",
        (r"<\|tool_call>call:",),
        ("<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    card(
        "functiongemma",
        "gemma:FunctionGemma",
        "<start_function_call>call:…{…}: FunctionGemma",
        ("<start_function_call>",),
        ("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    card(
        "olmo3",
        "pythonic:Olmo3",
        "<function_calls>…(…=…), a line for each: Olmo 3",
        ("<function_calls>",),
        ("<function_calls>", "</function_calls>"),
    ),
]

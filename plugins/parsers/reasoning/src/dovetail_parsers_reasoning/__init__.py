"""Parsers of reasoning: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import PORTABLE, TUNED, ReasoningParserCard, hookimpl

THINK = ("<think>", "</think>")
COMMAND = ("<|START_THINKING|>", "<|END_THINKING|>")
HARMONY = ("<|channel|>", "<|constrain|>", "<|message|>", "<|call|>", "<|start|>", "<|end|>")
INKLING = (
    "<|message_model|>",
    "<|content_thinking|>",
    "<|content_text|>",
    "<|content_invoke_tool_json|>",
    "<|end_message|>",
    "<|content_model_end_sampling|>",
)

ALIASES = {
    "qwen3": (
        "deepseek_v3",
        "deepseek_v4",
        "holo2",
        "mimo",
        "minimax_m2",
        "nemotron_v3",
        "olmo3",
        "poolside_v1",
        "step3p5",
    ),
    "deepseek_r1": ("step3",),
    "glm4": ("glm45", "glm47", "ling3"),
    "harmony": ("openai_gptoss",),
}
"""vLLM's names of the same parsers."""


def card(
    name: str,
    target: str,
    summary: str,
    recognises: tuple[str, ...] = (),
    special: tuple[str, ...] = THINK,
    rank: int = TUNED,
) -> ReasoningParserCard:
    return ReasoningParserCard(
        name=name,
        summary=summary,
        target=f"dovetail_parsers_reasoning.{target}",
        recognises=recognises,
        special_tokens=special,
        rank=rank,
    )


@hookimpl
def dovetail_register_parsers() -> list[ReasoningParserCard]:
    cards = [
        # The prompt says whether the model is within its thoughts already, so that most families with these tags need no more.
        card("qwen3", "think:Think", "<think>…</think>, where there are thoughts", ("</think>",), rank=PORTABLE),
        card(
            "deepseek_r1",
            "think:AlwaysThink",
            "…</think>, with thoughts even if nothing opens them: DeepSeek R1",
            (r"<｜Assistant｜><think>\\n'",),
        ),
        card(
            "glm4",
            "think:GlmThink",
            "<think>…</think>, or up to the first tool call: GLM 4.5 to 4.7",
            (r"<think>[\s\S]*</arg_key>", r"</arg_key>[\s\S]*<think>"),
        ),
        card(
            "kimi_k2",
            "think:KimiThink",
            "<think>…</think>, or up to the first tool call: Kimi K2",
            (r"<think>[\s\S]*tool_calls_section_begin", r"tool_calls_section_begin[\s\S]*<think>"),
        ),
        card(
            "ernie45",
            "think:ThinkResponse",
            "<think>…</think><response>…</response>: Ernie 4.5",
            (r"</think>\\n\\n<response>",),
        ),
        card(
            "hunyuan_a13b",
            "think:ThinkAnswer",
            "<think>…</think><answer>…</answer>: Hunyuan A13B",
            (r"</think>(\\n)?<answer>",),
        ),
        card("mistral", "marked:Mistral", "[THINK]…[/THINK]: Magistral", (r"\[/THINK\]",), ("[THINK]", "[/THINK]")),
        card(
            "granite",
            "marked:Granite",
            "Here is my thought process: … Here is my response: Granite 3.2 and 3.3",
            ("Here is my thought process:", "</think> and write your response between <response>"),
        ),
        card(
            "seed_oss",
            "marked:SeedOss",
            "<seed:think>…</seed:think>: Seed OSS",
            ("seed:think",),
            ("<seed:think>", "</seed:think>"),
        ),
        card(
            "cohere_command3",
            "marked:Command",
            "<|START_THINKING|>…<|END_THINKING|>: Command",
            (r"\A(?![\s\S]*<\|START_TEXT\|>)[\s\S]*<\|START_THINKING\|>",),
            (*COMMAND, "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ),
        card(
            "cohere_command4",
            "marked:Command4",
            "<|START_THINKING|>…<|END_THINKING|><|START_TEXT|>…: later Command",
            (r"<\|START_TEXT\|>",),
            (*COMMAND, "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
        card("apriel", "marked:Apriel", "… [BEGIN FINAL RESPONSE]: Apriel", (r"\[BEGIN FINAL RESPONSE\]",), ()),
        card(
            "gemma4",
            "marked:Gemma4",
            "<|channel>thought…<channel|>: Gemma 4",
            (r"<\|channel>thought",),
            ("<|channel>", "<channel|>"),
        ),
        card(
            "minimax_m3",
            "marked:MiniMaxM3",
            "<mm:think>…</mm:think>: MiniMax M3",
            ("</mm:think>",),
            ("<mm:think>", "</mm:think>"),
        ),
        card(
            "harmony",
            "harmony:Harmony",
            "the analysis channel: gpt-oss",
            (r"<\|channel\|>analysis<\|message\|>",),
            HARMONY,
        ),
        card(
            "hy_v3",
            "marked:HyV3",
            "<think:opensource>…</think:opensource>: Hunyuan 3",
            ("HYTK = ':opensource'", "<think:opensource>"),
            ("<think:opensource>", "</think:opensource>"),
        ),
        card(
            "kimi_k3",
            "blocks:KimiK3",
            "the channel think: Kimi K3",
            (r"<\|open\|>",),
            ("<|open|>", "<|close|>", "<|sep|>"),
        ),
        card(
            "inkling",
            "blocks:Inkling",
            "<|content_thinking|>…<|end_message|>: Inkling",
            (r"<\|content_thinking\|>",),
            INKLING,
        ),
        card(
            "solar_open",
            "blocks:SolarOpen",
            "<|think|>…<|end|>: Solar Open",
            (r"<\|think\|>",),
            ("<|think|>", "<|content|>", "<|tool_calls|>", "<|calls|>", "<|begin|>", "<|end|>"),
        ),
        card(
            "solar_open2",
            "marked:SolarOpen2",
            "<|think:start|>…<|think:end|>: Solar Open 2",
            (r"<\|think:start\|>",),
            ("<|think:start|>", "<|think:end|>"),
        ),
        card(
            "muse_glimmer",
            "blocks:MuseGlimmer",
            "messages to itself: Muse Glimmer",
            ("assistant to=self",),
            ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>"),
        ),
        card(
            "apertus",
            "marked:Apertus",
            "<|inner_prefix|>…<|inner_suffix|>: Apertus",
            (r"<\|inner_prefix\|>",),
            ("<|inner_prefix|>", "<|inner_suffix|>"),
        ),
    ]
    others = [c.model_copy(update={"name": name, "recognises": ()}) for c in cards for name in ALIASES.get(c.name, ())]
    return [*cards, *others]

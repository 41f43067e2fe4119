"""Arguments one by one, each between tags and without quotation marks: the schemas say of which types they are.

The notations are those of the families' chat templates where their parsers do not say otherwise.
"""

from __future__ import annotations

import re

from dovetail.api.parsing import ParameterCalls, Types


class Qwen3Coder(ParameterCalls):
    """Qwen 3 Coder and 3.5, Nemotron 3, Step 3.5. See :class:`dovetail.api.ToolParser`."""

    sections = ("<tool_call>",)
    call = "<function="
    header = re.compile(r"(?P<name>[^\s<>]+)\s*>")
    parameter = "<parameter="
    key = re.compile(r"(?P<key>[^\s<>]+)\s*>")
    value_end = "</parameter>"
    call_end = "</function>"
    ends = ("</tool_call>",)
    newlines = True


class SeedOss(Qwen3Coder):
    """Seed OSS, whose values stand on no lines of their own."""

    sections = ("<seed:tool_call>",)
    ends = ("</seed:tool_call>",)
    newlines = False


class Glm4(ParameterCalls):
    """GLM 4.5 to 4.7, Ling 3, Laguna, Spark. See :class:`dovetail.api.ToolParser`."""

    call = "<tool_call>"
    header = re.compile(r"\s*(?P<name>[^\s<>{}\"]+)\s*(?=<arg_key>|</tool_call>)")
    parameter = "<arg_key>"
    key = re.compile(r"\s*(?P<key>[^\s<>]+)\s*</arg_key>\s*<arg_value>")
    value_end = "</arg_value>"
    call_end = "</tool_call>"


class MiniMaxM2(ParameterCalls):
    """MiniMax M2. See :class:`dovetail.api.ToolParser`."""

    sections = ("<minimax:tool_call>",)
    call = '<invoke name="'
    header = re.compile(r'(?P<name>[^"<>]+)">')
    parameter = '<parameter name="'
    key = re.compile(r'(?P<key>[^"<>]+)">')
    value_end = "</parameter>"
    call_end = "</invoke>"
    ends = ("</minimax:tool_call>",)


class Dots(ParameterCalls):
    """Dots: as MiniMax M2, with a mark of its own. The notation is that of vLLM's parser of the same name."""

    sections = ("<dots_function_call>",)
    call = "<invoke name="
    header = re.compile(r'"?(?P<name>[^"<>]+)"?>')
    parameter = "<parameter name="
    key = re.compile(r'"?(?P<key>[^"<>]+)"?>')
    value_end = "</parameter>"
    call_end = "</invoke>"
    ends = ("</dots_function_call>",)


class DeepSeekV32(ParameterCalls):
    """DeepSeek V3.2, which says of each value whether it is a text. See :class:`dovetail.api.ToolParser`."""

    sections = ("<｜DSML｜function_calls>",)
    call = '<｜DSML｜invoke name="'
    header = re.compile(r'(?P<name>[^"<>]+)">')
    parameter = '<｜DSML｜parameter name="'
    key = re.compile(r'(?P<key>[^"<>]+)"(?: string="(?P<text>true|false)")?>')
    value_end = "</｜DSML｜parameter>"
    call_end = "</｜DSML｜invoke>"
    ends = ("</｜DSML｜function_calls>",)

    def value_types(self, name: str, key: re.Match[str]) -> Types:
        types = super().value_types(name, key)
        return frozenset({"string"}) if key["text"] == "true" else types - {"string"}


class DeepSeekV4(DeepSeekV32):
    """DeepSeek V4, with another mark about its calls."""

    sections = ("<｜DSML｜tool_calls>",)
    ends = ("</｜DSML｜tool_calls>",)


class Step3(ParameterCalls):
    """Step 3: tags of its own, within marks about each call. See :class:`dovetail.api.ToolParser`.

    The notation is that of vLLM's parser of the same name.
    """

    sections = ("<｜tool_calls_begin｜>",)
    call = "<｜tool_call_begin｜>"
    header = re.compile(r'\s*function\s*<｜tool_sep｜>\s*<steptml:invoke name="(?P<name>[^"<>]+)">')
    parameter = '<steptml:parameter name="'
    key = re.compile(r'(?P<key>[^"<>]+)">')
    value_end = "</steptml:parameter>"
    call_end = "</steptml:invoke>"
    ends = ("<｜tool_call_end｜>", "<｜tool_calls_end｜>")


class MuseGlimmer(ParameterCalls):
    """Muse Glimmer. The reasoning parser of that family takes the marks of its messages away."""

    sections = ("<atem:function_calls>",)
    call = '<atem:invoke name="'
    header = re.compile(r'(?P<name>[^"<>]+)">')
    parameter = '<atem:parameter name="'
    key = re.compile(r'(?P<key>[^"<>]+)">')
    value_end = "</atem:parameter>"
    call_end = "</atem:invoke>"
    ends = ("</atem:function_calls>",)


class MiniCpm5(ParameterCalls):
    """MiniCPM 5: values with markup or line ends stand in CDATA."""

    call = '<function name="'
    header = re.compile(r'(?P<name>[^"<>]+)">')
    parameter = '<param name="'
    key = re.compile(r'(?P<key>[^"<>]+)">(?:(?P<cdata><!\[CDATA\[)|(?=[^<])|(?=<[^!]))')
    value_end = "</param>"
    call_end = "</function>"

    def end_of_value(self, key: re.Match[str]) -> str:
        return f"]]>{self.value_end}" if key["cdata"] else self.value_end


class HyV3(ParameterCalls):
    """Hunyuan 3; all of its marks end in the name of the edition."""

    sections = ("<tool_calls:opensource>",)
    call = "<tool_call:opensource>"
    header = re.compile(r"\s*(?P<name>[^\s<>]+)\s*<tool_sep:opensource>")
    parameter = "<arg_key:opensource>"
    key = re.compile(r"\s*(?P<key>[^\s<>]+)\s*</arg_key:opensource>\s*<arg_value:opensource>")
    value_end = "</arg_value:opensource>"
    call_end = "</tool_call:opensource>"
    ends = ("</tool_calls:opensource>",)


class SolarOpen2(ParameterCalls):
    """Solar Open 2. The notation is that of vLLM's parser of the same name."""

    call = "<|tool_call:start|>"
    header = re.compile(r"(?P<name>[^\s<>]+)[^\S\n]*\n")
    parameter = "<|tool_arg:start|>"
    key = re.compile(r"(?P<key>[^<>]+)<\|tool_arg:value\|>")
    value_end = "<|tool_arg:end|>"
    call_end = "<|tool_call:end|>"


class LongCatPairs(ParameterCalls):
    """LongCat where it writes arguments one by one, as clients of Meituan's service have recorded it; see also :class:`listed.LongCat`."""

    call = "<longcat_tool_call>"
    header = re.compile(r"\s*(?P<name>[^\s<>{}\"]+)\s*(?=<longcat_arg_key>|</longcat_tool_call>)")
    parameter = "<longcat_arg_key>"
    key = re.compile(r"\s*(?P<key>[^\s<>]+)\s*</longcat_arg_key>\s*<longcat_arg_value>")
    value_end = "</longcat_arg_value>"
    call_end = "</longcat_tool_call>"


class KimiK3(ParameterCalls):
    """Kimi K3, which says of each value whether it is a text."""

    sections = ("<|open|>tools<|sep|>",)
    call = '<|open|>call tool="'
    header = re.compile(r'(?P<name>[^"<>]+)"(?: index="\d+")?<\|sep\|>')
    parameter = '<|open|>argument key="'
    key = re.compile(r'(?P<key>[^"<>]+)"(?: type="(?P<type>\w+)")?<\|sep\|>')
    value_end = "<|close|>argument<|sep|>"
    call_end = "<|close|>call<|sep|>"
    ends = ("<|close|>tools<|sep|>", "<|close|>message<|sep|>")

    def value_types(self, name: str, key: re.Match[str]) -> Types:
        types = super().value_types(name, key)
        if not key["type"]:
            return types
        return frozenset({"string"}) if key["type"] == "string" else types - {"string"}

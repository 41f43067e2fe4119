"""Arguments one by one, each between tags and without quotation marks. The schemas give their types.

The formats are those of the families' chat templates, unless a parser says otherwise.
"""

from __future__ import annotations

import re

from dovetail.api.parsing import ParameterToolParser, Types


class Qwen3Coder(ParameterToolParser):
    """Qwen 3 Coder and 3.5, Nemotron 3, Step 3.5. See :class:`dovetail.api.ToolParser`."""

    section_markers = ("<tool_call>",)
    call_start = "<function="
    header_pattern = re.compile(r"(?P<name>[^\s<>]+)\s*>")
    parameter_start = "<parameter="
    key_pattern = re.compile(r"(?P<key>[^\s<>]+)\s*>")
    value_end = "</parameter>"
    call_end = "</function>"
    end_markers = ("</tool_call>",)
    values_on_own_lines = True


class SeedOss(Qwen3Coder):
    """Seed OSS, whose values are not on separate lines."""

    section_markers = ("<seed:tool_call>",)
    end_markers = ("</seed:tool_call>",)
    values_on_own_lines = False


class Glm4(ParameterToolParser):
    """GLM 4.5 to 4.7, Ling 3, Laguna, Spark. See :class:`dovetail.api.ToolParser`."""

    call_start = "<tool_call>"
    header_pattern = re.compile(r"\s*(?P<name>[^\s<>{}\"]+)\s*(?=<arg_key>|</tool_call>)")
    parameter_start = "<arg_key>"
    key_pattern = re.compile(r"\s*(?P<key>[^\s<>]+)\s*</arg_key>\s*<arg_value>")
    value_end = "</arg_value>"
    call_end = "</tool_call>"


class MiniMaxM2(ParameterToolParser):
    """MiniMax M2. See :class:`dovetail.api.ToolParser`."""

    section_markers = ("<minimax:tool_call>",)
    call_start = '<invoke name="'
    header_pattern = re.compile(r'(?P<name>[^"<>]+)">')
    parameter_start = '<parameter name="'
    key_pattern = re.compile(r'(?P<key>[^"<>]+)">')
    value_end = "</parameter>"
    call_end = "</invoke>"
    end_markers = ("</minimax:tool_call>",)


class Dots(ParameterToolParser):
    """Dots: like MiniMax M2, with its own marker, in the format of vLLM's parser of the same name."""

    section_markers = ("<dots_function_call>",)
    call_start = "<invoke name="
    header_pattern = re.compile(r'"?(?P<name>[^"<>]+)"?>')
    parameter_start = "<parameter name="
    key_pattern = re.compile(r'"?(?P<key>[^"<>]+)"?>')
    value_end = "</parameter>"
    call_end = "</invoke>"
    end_markers = ("</dots_function_call>",)


class DeepSeekV32(ParameterToolParser):
    """DeepSeek V3.2, which marks each value as text or not. See :class:`dovetail.api.ToolParser`."""

    section_markers = ("<｜DSML｜function_calls>",)
    call_start = '<｜DSML｜invoke name="'
    header_pattern = re.compile(r'(?P<name>[^"<>]+)">')
    parameter_start = '<｜DSML｜parameter name="'
    key_pattern = re.compile(r'(?P<key>[^"<>]+)"(?: string="(?P<text>true|false)")?>')
    value_end = "</｜DSML｜parameter>"
    call_end = "</｜DSML｜invoke>"
    end_markers = ("</｜DSML｜function_calls>",)

    def value_types(self, name: str, key: re.Match[str]) -> Types:
        types = super().value_types(name, key)
        return frozenset({"string"}) if key["text"] == "true" else types - {"string"}


class DeepSeekV4(DeepSeekV32):
    """DeepSeek V4, with another marker around its calls."""

    section_markers = ("<｜DSML｜tool_calls>",)
    end_markers = ("</｜DSML｜tool_calls>",)


class Step3(ParameterToolParser):
    """Step 3: its own tags, inside markers around each call. See :class:`dovetail.api.ToolParser`.

    The notation is that of vLLM's parser of the same name.
    """

    section_markers = ("<｜tool_calls_begin｜>",)
    call_start = "<｜tool_call_begin｜>"
    header_pattern = re.compile(r'\s*function\s*<｜tool_sep｜>\s*<steptml:invoke name="(?P<name>[^"<>]+)">')
    parameter_start = '<steptml:parameter name="'
    key_pattern = re.compile(r'(?P<key>[^"<>]+)">')
    value_end = "</steptml:parameter>"
    call_end = "</steptml:invoke>"
    end_markers = ("<｜tool_call_end｜>", "<｜tool_calls_end｜>")


class MuseGlimmer(ParameterToolParser):
    """Muse Glimmer. The reasoning parser of that family removes the markers of its messages."""

    section_markers = ("<atem:function_calls>",)
    call_start = '<atem:invoke name="'
    header_pattern = re.compile(r'(?P<name>[^"<>]+)">')
    parameter_start = '<atem:parameter name="'
    key_pattern = re.compile(r'(?P<key>[^"<>]+)">')
    value_end = "</atem:parameter>"
    call_end = "</atem:invoke>"
    end_markers = ("</atem:function_calls>",)


class MiniCpm5(ParameterToolParser):
    """MiniCPM 5: values with markup or line ends are in CDATA."""

    call_start = '<function name="'
    header_pattern = re.compile(r'(?P<name>[^"<>]+)">')
    parameter_start = '<param name="'
    key_pattern = re.compile(r'(?P<key>[^"<>]+)">(?:(?P<cdata><!\[CDATA\[)|(?=[^<])|(?=<[^!]))')
    value_end = "</param>"
    call_end = "</function>"

    def end_of_value(self, key: re.Match[str]) -> str:
        return f"]]>{self.value_end}" if key["cdata"] else self.value_end


class HyV3(ParameterToolParser):
    """Hunyuan 3; all of its markers end with the name of the edition."""

    section_markers = ("<tool_calls:opensource>",)
    call_start = "<tool_call:opensource>"
    header_pattern = re.compile(r"\s*(?P<name>[^\s<>]+)\s*<tool_sep:opensource>")
    parameter_start = "<arg_key:opensource>"
    key_pattern = re.compile(r"\s*(?P<key>[^\s<>]+)\s*</arg_key:opensource>\s*<arg_value:opensource>")
    value_end = "</arg_value:opensource>"
    call_end = "</tool_call:opensource>"
    end_markers = ("</tool_calls:opensource>",)


class SolarOpen2(ParameterToolParser):
    """Solar Open 2, in the format of vLLM's parser of the same name."""

    call_start = "<|tool_call:start|>"
    header_pattern = re.compile(r"(?P<name>[^\s<>]+)[^\S\n]*\n")
    parameter_start = "<|tool_arg:start|>"
    key_pattern = re.compile(r"(?P<key>[^<>]+)<\|tool_arg:value\|>")
    value_end = "<|tool_arg:end|>"
    call_end = "<|tool_call:end|>"


class LongCatPairs(ParameterToolParser):
    """LongCat with arguments one by one, as clients of Meituan's service have recorded it; see also
    :class:`~dovetail_parsers_tools.json_arguments.json_lists.LongCat`.
    """

    call_start = "<longcat_tool_call>"
    header_pattern = re.compile(r"\s*(?P<name>[^\s<>{}\"]+)\s*(?=<longcat_arg_key>|</longcat_tool_call>)")
    parameter_start = "<longcat_arg_key>"
    key_pattern = re.compile(r"\s*(?P<key>[^\s<>]+)\s*</longcat_arg_key>\s*<longcat_arg_value>")
    value_end = "</longcat_arg_value>"
    call_end = "</longcat_tool_call>"


class KimiK3(ParameterToolParser):
    """Kimi K3, which marks each value as text or not."""

    section_markers = ("<|open|>tools<|sep|>",)
    call_start = '<|open|>call tool="'
    header_pattern = re.compile(r'(?P<name>[^"<>]+)"(?: index="\d+")?<\|sep\|>')
    parameter_start = '<|open|>argument key="'
    key_pattern = re.compile(r'(?P<key>[^"<>]+)"(?: type="(?P<type>\w+)")?<\|sep\|>')
    value_end = "<|close|>argument<|sep|>"
    call_end = "<|close|>call<|sep|>"
    end_markers = ("<|close|>tools<|sep|>", "<|close|>message<|sep|>")

    def value_types(self, name: str, key: re.Match[str]) -> Types:
        types = super().value_types(name, key)
        if not key["type"]:
            return types
        return frozenset({"string"}) if key["type"] == "string" else types - {"string"}

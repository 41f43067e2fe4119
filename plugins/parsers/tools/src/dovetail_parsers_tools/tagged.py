"""Arguments one by one, each between tags and without quotation marks: the schemas say of which types they are."""

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

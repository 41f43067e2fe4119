"""Pre-tokenizers of byte-level BPE vocabularies, by the name in ``tokenizer.ggml.pre``: how text is split into words
before merging.

The names are llama.cpp's (``src/llama-vocab.cpp``); the expressions are those of the models' own ``tokenizer.json``,
which llama.cpp approximates where its engine lacks a feature. A merge never crosses a split, so a wrong expression
gives wrong tokens without an error. Names that are not listed here are refused.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is split, and further settings."""

    cuts: tuple[str, ...]
    """Expressions, applied one after the other: each match becomes a word, and so does the text between matches."""
    whole_words: bool = False
    """A word that is in the vocabulary becomes one token, whatever the merges say."""
    add_bos: bool = False
    """Default, if the file does not say."""
    nfc: bool = False
    """Text is normalised to NFC first."""


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _gpt4(digits: str, letters: str = r"\p{L}+", others: str = r"[^\s\p{L}\p{N}]+[\r\n]*", lines: str = _LINES) -> str:
    """The shape of GPT-4's expression: a contraction, a word, a number, punctuation, space."""
    return rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{letters}|{digits}| ?{others}|{lines}"


def _gpt4o(digits: str, suffix: str = "", without: str = "", others: str = r"[^\s\p{L}\p{N}]+[\r\n/]*") -> str:
    """The shape of GPT-4o's: as GPT-4's, but a word ends where lower case turns into upper case."""
    upper = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}"
    return rf"{words}|{digits}| ?{others}|{_LINES}"


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_THREE_DIGITS = r"\p{N}{1,3}"
_CONTRACTED = _CONTRACTIONS + "?"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_KANA_HAN = "[一-龥\u3040-\u309f\u30a0-\u30ff]+"
_ASCII_LED_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
_DEEPSEEK3 = _ASCII_LED_WORD + r"| ?[\p{P}\p{S}]+[\r\n]*|" + _LINES
_HAN_HANGUL = "[一-龥ࠀ-一가-\ud7ff]+"
_CASED_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-"
    "\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-"
    "ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
"""DeepSeek's letters: those with upper and lower case in the Unicode version of its training."""
_THAI_LAO_KHMER_CJK = (
    "[一-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
    "\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_THREE_FROM_THE_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_LINE_OR_BREAKS = r"[^\n]+|\n+"
_YOUTU_SCRIPTS = (
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-\u309f\u30a0-\u30ff]+"
)  # fmt: skip

_OF_GPT2 = PreTokenizer((_GPT2,))
_OF_LLAMA3 = PreTokenizer((_gpt4(_THREE_DIGITS),), whole_words=True, add_bos=True)
_OF_GPT4 = PreTokenizer((_gpt4(_THREE_DIGITS),))
_OF_QWEN2 = PreTokenizer((_gpt4(r"\p{N}"),), nfc=True)
_ONE_DIGIT = PreTokenizer((_gpt4(r"\p{N}"),))
_OF_STARCODER = PreTokenizer((r"\p{N}", _GPT2))
_OF_BLOOM = PreTokenizer((_BLOOM,))
_OF_GPT4O = PreTokenizer((_gpt4o(_THREE_DIGITS, _CONTRACTED),))
_OF_DEEPSEEK3 = PreTokenizer((_THREE_DIGITS, _KANA_HAN, _DEEPSEEK3))
_OF_BAILING = PreTokenizer(
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
    )
)
_OF_COHERE2 = PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _gpt4o(_THREE_DIGITS, _CONTRACTED)))

DEFAULT = "default"

PRETOKENIZERS: dict[str, PreTokenizer] = {
    DEFAULT: PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "a.x-4.0": _OF_GPT2,
    "afmoe": PreTokenizer((_THREE_FROM_THE_RIGHT, _THAI_LAO_KHMER_CJK, _DEEPSEEK3)),
    "bailingmoe": _OF_BAILING,
    "bailingmoe2": _OF_BAILING,
    "bloom": _OF_BLOOM,
    "chameleon": PreTokenizer(
        (
            r"<sentinel:[0-9]+>",
            r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    "chatglm-bpe": _OF_GPT4,
    "codeshell": _OF_STARCODER,
    "cohere2moe": _OF_COHERE2,
    "command-r": PreTokenizer((r"\p{N}", _GPT2), nfc=True),
    "dbrx": _OF_GPT4,
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_HANGUL, r"\p{N}")),
    "deepseek-llm": PreTokenizer(
        (
            "[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
            r"\s+$",
            _HAN_HANGUL,
            r"\p{N}+",
        )
    ),
    "deepseek-r1-qwen": _ONE_DIGIT,
    "deepseek-v3": _OF_DEEPSEEK3,
    "exaone": _OF_STARCODER,
    "exaone-moe": PreTokenizer(
        (
            _gpt4(
                r"\p{N}",
                r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
                r"[^\s\p{L}\p{N}]+[\r\n/]?",
                r"\s*[\r\n]|\s+(?!\S)|\s+",
            ),
        )
    ),
    "exaone4": _OF_GPT2,
    "f2llmv2": _ONE_DIGIT,
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "falcon-h1": _OF_LLAMA3,
    "falcon3": _OF_LLAMA3,
    "gigachat": _OF_GPT2,
    "glm4": PreTokenizer((_gpt4(_THREE_DIGITS),), whole_words=True),
    "glm5": PreTokenizer((_gpt4(_THREE_DIGITS),), whole_words=True),
    "gpt-2": _OF_GPT2,
    "gpt-4o": _OF_GPT4O,
    "gpt3-finnish": _OF_BLOOM,
    "granite-docling": _OF_GPT2,
    "granite-embed-multi-97m": PreTokenizer((_gpt4o(_THREE_DIGITS, _CONTRACTED),), whole_words=True),
    "grok-2": _ONE_DIGIT,
    "hunyuan": _ONE_DIGIT,
    "hunyuan-dense": _OF_DEEPSEEK3,
    "hy_v4": _OF_DEEPSEEK3,
    "jais": _OF_GPT2,
    "jais-2": PreTokenizer(
        (
            _gpt4(
                _THREE_DIGITS,
                lines=r"\s*[\r\n]+|"
                + "".join(rf"\s{{{n}}}(?!\S)|" for n in (512, 256, 128, 64, 32, 16, 8, 4))
                + r"\s{1,2}(?!\S)|\s{1}",
            ),
        )
    ),
    "jina-de": _OF_GPT2,
    "jina-es": _OF_GPT2,
    "jina-v1-en": _OF_GPT2,
    "jina-v2-code": _OF_GPT2,
    "jina-v2-de": _OF_GPT2,
    "jina-v2-es": _OF_GPT2,
    "jina-v5-nano": _OF_LLAMA3,
    "joyai-llm": _OF_DEEPSEEK3,
    "kanana2": _OF_GPT4O,
    "kimi-k2": PreTokenizer(
        (r"\p{Han}+|" + _gpt4o(_THREE_DIGITS, _CONTRACTED, without=r"&&[^\p{Han}]", others=r"[^\s\p{L}\p{N}]+[\r\n]*"),)
    ),
    "kormo": _ONE_DIGIT,
    "laguna": PreTokenizer((_LINE_OR_BREAKS, _gpt4(r"\p{N}"))),
    "lfm2": _OF_LLAMA3,
    "llada-moe": _OF_BAILING,
    "llama-bpe": _OF_LLAMA3,
    "llama-v3": _OF_LLAMA3,
    "llama3": _OF_LLAMA3,
    "llama4": _OF_GPT4O,
    "megrez": _ONE_DIGIT,
    "mellum": _OF_GPT2,
    "mellum2": _OF_STARCODER,
    "midm-2.0": _OF_LLAMA3,
    "minerva-7b": _OF_STARCODER,
    "minicpm5": PreTokenizer((_THREE_DIGITS, _gpt4(r"\p{N}+")), whole_words=True),
    "minimax-m2": _OF_GPT4O,
    "modern-bert": _OF_GPT2,
    "mpt": _OF_GPT2,
    "olmo": _OF_GPT2,
    "phi-2": _OF_GPT2,
    "pixtral": _OF_LLAMA3,
    "poro-chat": _OF_BLOOM,
    "qwen2": _OF_QWEN2,
    "qwen35": PreTokenizer((_gpt4(r"\p{N}", r"[\p{L}\p{M}]+", r"[^\s\p{L}\p{M}\p{N}]+[\r\n]*"),)),
    "refact": _OF_STARCODER,
    "roberta-bpe": _OF_GPT2,
    "seed-coder": PreTokenizer((_gpt4(r"\p{N}", others=r"[^\s\p{L}\p{N}\r\n]+"),)),
    "smaug-bpe": _OF_GPT4,
    "smollm": _OF_STARCODER,
    "solar-open": _ONE_DIGIT,
    "spark2_5": PreTokenizer(
        (
            _THREE_DIGITS,
            _KANA_HAN,
            _ASCII_LED_WORD + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+",
            r"\p{N}",
        )
    ),
    "stablelm2": _ONE_DIGIT,
    "starcoder": _OF_STARCODER,
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "talkie": _OF_GPT4O,
    "tekken": PreTokenizer((_gpt4o(r"\p{N}"),), whole_words=True, add_bos=True),
    "tiny_aya": _OF_COHERE2,
    "trillion": _OF_GPT2,
    "ufakzeka": PreTokenizer((_gpt4(r"\p{N}").removeprefix(_CONTRACTIONS + "|"),)),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
    "youtu": PreTokenizer((_YOUTU_SCRIPTS, _gpt4o(r"\p{N}", _CONTRACTED)), whole_words=True),
}
"""Name → pre-tokenizer."""

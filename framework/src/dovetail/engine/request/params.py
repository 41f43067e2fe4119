"""Sampling parameters: how tokens are chosen, and when the output ends."""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from dovetail.api.errors import RequestError
from dovetail.engine.request import parameter_rules as rules
from dovetail.engine.request.outputs import RequestOutputKind
from dovetail.utils import logs
from dovetail.utils.foreign.translate import translate_keywords
from dovetail.utils.foreign.vllm_sampling import SAMPLING


class StructuredOutputs(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The format that the output must have; exactly one field is set.

    Args:
        json: a JSON schema, as text or as an object.
        json_object: any JSON object.
        regex: the whole output matches.
        choice: the output is one of these texts.
        grammar: in EBNF, in the notation of the grammar backend.
        structural_tag: a composition of formats, in vLLM's newer notation (``format``) or its older one (``structures``
            and ``triggers``).
    """

    json: str | dict[str, Any] | None = None
    json_object: bool = False
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        fields = StructuredOutputs.__struct_fields__
        given = [name for name in fields if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = f"the fields {', '.join(given)}" if given else "none"
            raise _invalid_structured_outputs(f"wanted one field of {', '.join(fields)}, found {found}")
        value = getattr(self, given[0])
        if given[0] == "choice":
            if not (isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value)):
                raise _invalid_structured_outputs("choice wants a non-empty list of texts")
            self.choice = list(value)
        elif given[0] == "json_object":
            if value is not True:
                raise _invalid_structured_outputs("json_object wants true or false")
        elif not isinstance(value, str) and not (isinstance(value, dict) and given[0] in ("json", "structural_tag")):
            raise _invalid_structured_outputs(f"{given[0]} is a {type(value).__name__}, wanted a text")
        elif value == "":
            raise _invalid_structured_outputs(f"{given[0]} is empty")


class StructuredOutputsParams(StructuredOutputs, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """:class:`StructuredOutputs` with vLLM's further arguments, for scripts that use them.

    Args:
        backend: has no effect. The server's grammar backend is used (``--structured-outputs-backend``).
        disable_fallback: has no effect, because there is no fallback.
        disable_any_whitespace, disable_additional_properties, whitespace_pattern: refused if they are set.

    Raises:
        RequestError: not exactly one format is given, or one of the last three is set.
    """

    backend: str | None = None
    disable_fallback: bool = False
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        for name in ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"):
            if value := getattr(self, name):
                raise RequestError(
                    f"structured_outputs: {name} is {value!r}, which cannot be had",
                    "leave it out, and say it in the schema or as a regex",
                    param="structured_outputs",
                )
        super().__post_init__()


GuidedDecodingParams = StructuredOutputsParams
"""vLLM's older name for it."""


def _invalid_structured_outputs(problem: str) -> RequestError:
    return RequestError(f"structured_outputs: {problem}", param="structured_outputs")


class _TakesForeign(type(msgspec.Struct)):  # type: ignore[misc]  # the class of its classes has no name of its own
    """Metaclass: the class accepts parameters under vLLM's names, and None for the default."""

    def __call__(cls, **given: Any) -> Any:
        for value in given.values():
            if value is None:
                break
        else:
            if _FIELDS.issuperset(given):
                return super().__call__(**given)
        nulls = {name: None for name in _NULLABLE if given.get(name, ...) is None}
        done = translate_keywords(given, _FIELDS, SAMPLING)
        if done.faults:
            raise RequestError(*done.faults[0])
        for notice in done.notices:
            logs.announce(f"note: {notice}")
        return super().__call__(**nulls, **done.options)


class SamplingParams(
    msgspec.Struct, metaclass=_TakesForeign, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """How to choose tokens, and when to stop. vLLM's older parameter names are accepted, and None means the default.

    Args:
        n: completions of each prompt.
        temperature: 0 always takes the likeliest token; otherwise logits are divided by it.
        top_k: only the k likeliest tokens; 0 or -1 for all.
        top_p: only the likeliest tokens whose probabilities sum to p.
        min_p: only tokens at least this fraction as likely as the likeliest.
        presence_penalty: subtracted from the logits of tokens that are in the output already.
        frequency_penalty: the same, multiplied by how often the token is in the output.
        repetition_penalty: divides positive logits and multiplies negative ones, for tokens that are in the prompt or
            the output.
        seed: makes sampling repeatable, alone or in a batch.
        stop: texts that end the output when they appear.
        stop_token_ids: tokens that end the output.
        include_stop_str_in_output: keep the text that ended the output.
        ignore_eos: continue after the end-of-sequence token.
        max_tokens: maximum number of new tokens; None for all that the context leaves.
        min_tokens: minimum number of tokens before end-of-sequence or a stop token may be chosen.
        skip_special_tokens: leave special tokens out of the text.
        best_of: generate this many completions, at least ``n``, and return the ``n`` with the highest log-probability
            (summed over the output's tokens).
        logit_bias: token id → number from -100 to 100 added to its logit.
        bad_words: texts that must not be in the output, at its beginning, after a space or elsewhere.
        allowed_token_ids: the only tokens that may be chosen.
        logprobs: return the logprob of every output token and of this many of the likeliest tokens; -1 for the whole
            vocabulary.
        prompt_logprobs: the same for the tokens of the prompt.
        structured_outputs: the format that the output must have.
        logits_processors: names of logits processors, or ``{"name": …, "args": {…}}`` with arguments for one; they run
            in this order.
        truncate_prompt_tokens: keep only this many tokens from the end of the prompt; -1 for as many as the context
            holds together with ``max_tokens``.
        shown_special_tokens: ids of special tokens that stay in the text.
        spaces_between_special_tokens: has no effect; accepted for vLLM's scripts.
        detokenize: return texts besides token ids. Without a tokenizer there are no texts.
        output_kind: the content of the outputs of ``AsyncLLM`` and ``LLMEngine`` while the request runs. ``LLM``
            returns whole outputs.

    Raises:
        RequestError: a value is out of its range; names the parameter.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] = []
    stop_token_ids: list[int] = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    skip_special_tokens: bool = True
    best_of: int | None = None
    logit_bias: dict[int, float] | None = None
    bad_words: list[str] = []
    allowed_token_ids: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: StructuredOutputs | None = None
    logits_processors: list[Any] = []
    truncate_prompt_tokens: int | None = None
    shown_special_tokens: list[int] = []
    spaces_between_special_tokens: bool = True
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        rules.check_params(self, _DEFAULTS)
        if self.top_k == -1:
            self.top_k = 0
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise rules.invalid_value("min_tokens", self.min_tokens, f"at most max_tokens ({self.max_tokens})")
        if self.best_of is not None and self.best_of < self.n:
            raise rules.invalid_value("best_of", self.best_of, f"at least n ({self.n})")
        if self.stop and not self.detokenize:
            raise RequestError(
                "stop was given with detokenize=False, and without text no stop string can be found",
                "use stop_token_ids, or let it detokenize",
                param="stop",
            )
        if self.structured_outputs is not None:
            self.structured_outputs = _read_structured_outputs(self.structured_outputs)

    def clone(self) -> SamplingParams:
        """A deep copy."""
        return copy.deepcopy(self)

    @property
    def num_sequences(self) -> int:
        """Number of sequences to run for a prompt: ``n``, or ``best_of`` if that is larger."""
        return self.n if self.best_of is None else self.best_of

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5

    @property
    def has_penalties(self) -> bool:
        """Whether the sampler needs counts of earlier tokens."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1.0


_FIELDS = frozenset(SamplingParams.__struct_fields__)
_NULLABLE = ("max_tokens",)
"""Parameters for which None is a value of its own and not the default."""
_DEFAULTS = {
    name: default
    for name, default in zip(SamplingParams.__struct_fields__, SamplingParams.__struct_defaults__, strict=True)
    if name in rules.RULES and name not in rules.LIST_PARAMS
}


def _read_structured_outputs(value: Any) -> StructuredOutputs:
    if isinstance(value, StructuredOutputs):
        value.__post_init__()  # it may have been changed since it was made
        if isinstance(value, StructuredOutputsParams):
            return StructuredOutputs(**{name: getattr(value, name) for name in StructuredOutputs.__struct_fields__})
        return value
    if not isinstance(value, dict):
        raise rules.invalid_value("structured_outputs", value, "an object with one field")
    if unknown := sorted(map(str, set(value) - set(StructuredOutputs.__struct_fields__))):
        known = ", ".join(StructuredOutputs.__struct_fields__)
        raise _invalid_structured_outputs(f"wanted one field of {known}, found {', '.join(unknown)}")
    return StructuredOutputs(**value)


class BeamSearchParams(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Parameters of a beam search.

    Args:
        beam_width: number of beams, and of results.
        max_tokens: maximum number of new tokens.
        ignore_eos: continue after the end-of-sequence token.
        temperature: 0 or 1, with the same result. The search follows the model's own distribution and does not sample.
        length_penalty: completions are ranked by their log-probability divided by their length (in tokens, an
            end-of-sequence token included) to this power. Above 0, longer ones rank higher.

    Raises:
        RequestError: a value is out of its range; names the parameter.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, (read, wanted) in rules.BEAM_RULES.items():
            rules.check(self, name, getattr(self, name), read, wanted)

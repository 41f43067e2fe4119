"""Describes the checkpoint in GGUF files, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dovetail.api import Checkpoint, CheckpointError, quote_foreign
from dovetail_loaders_gguf.cursor import DOWNLOAD_AGAIN, StringArray
from dovetail_loaders_gguf.files import parts, with_all_parts
from dovetail_loaders_gguf.header import MAX_NUMBER, Header, read_header
from dovetail_loaders_gguf.sizes import EMBEDDING, check_sizes

NAMING = "gguf"
TOKENIZER = "dovetail_loaders_gguf.tokenizer:from_gguf"
MAX_PLAN_ITEMS, MAX_PLAN_TEXT = 1024, 2**14
"""Arrays with more elements and texts with more characters than this are left out of a checkpoint's metadata, because
they are vocabularies and descriptions.
"""
MAX_ARCHITECTURE = 64
"""Most characters of an architecture's name."""

END_IDS = ("eos_token_id", "eot_token_id", "eom_token_id")
END_TEXTS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
)
"""Tokens that end an output in any vocabulary that has them. Files often name only the base model's id, while the
chat template ends messages with another token; llama.cpp has such a list too.
"""
NO_ENDS = ({"<|return|>", "<|call|>", "<|end|>"}, {"<|calls|>", "<|flush|>", "<|end|>"})
"""If a vocabulary has all tokens of a set, ``<|end|>`` only separates the parts of one output."""


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    """Describe the model at a model reference.

    Args:
        path: the folder or the file of the reference.
        files: the GGUF files found there, as full paths.

    Raises:
        CheckpointError: files are missing or damaged, a folder holds more than one model, or the metadata speaks of
            more layers or larger tensors than there are.
    """
    headers = with_all_parts([read_header(file) for file in parts(path, files)])
    first, chosen = headers[0], [header.path for header in headers]
    _check_parts(headers)
    metadata = _without_long_values(first.metadata)
    if not (architecture := first.text("general.architecture")):
        raise CheckpointError(f"{first.path} lacks the metadata entry general.architecture", "convert the model anew")
    if len(architecture) > MAX_ARCHITECTURE or not architecture.isprintable():
        first.refuse("general.architecture", f"a name of at most {MAX_ARCHITECTURE} characters")
    tensors = {tensor.name: tensor for header in headers for tensor in header.tensors}
    check_sizes(first, architecture, tensors)
    metadata["tied_embeddings"] = "output.weight" not in tensors
    # Models size their embedding by it, and converters write it only for some architectures.
    embedding = tensors.get(EMBEDDING)
    tokens = first.metadata.get("tokenizer.ggml.tokens")
    rows = embedding.shape[0] if embedding else len(tokens) if isinstance(tokens, StringArray) else 0
    metadata.setdefault(f"{architecture}.vocab_size", rows)
    return Checkpoint(
        path=path,
        files=tuple(chosen),
        naming=NAMING,
        architecture=architecture,
        metadata=metadata,
        tensor_types=dict(sorted(Counter(tensor.type.name for tensor in tensors.values()).items())),
        generation_config=_generation_config(first.metadata),
        tokenizer=TOKENIZER,
        tokenizer_path=chosen[0],
    )


def _check_parts(headers: Sequence[Header]) -> None:
    first = headers[0]
    count = first.number("split.count", 1)
    # A split of one part says 1 or 0.
    if max(count, 1) != len(headers):
        raise CheckpointError(
            f"{first.path} is the first of {count} parts by its metadata, found {len(headers)}",
            "give the parts the names they were published under, name-00001-of-00002.gguf and so on",
        )
    owner: dict[str, str] = {}
    for number, header in enumerate(headers):
        place = (header.number("split.no", number), header.number("split.count", count))
        if place != (number, count):
            raise CheckpointError(
                f"{header.path} is part {place[0] + 1} of {place[1]} by its metadata, wanted part {number + 1} of {count}",
                "give the parts the names they were published under",
            )
        for tensor in header.tensors:
            if tensor.name in owner:
                raise CheckpointError(
                    f"tensor {quote_foreign(tensor.name)} stands twice, in {owner[tensor.name]} and in {header.path}",
                    DOWNLOAD_AGAIN,
                )
            owner[tensor.name] = header.path
    wanted = first.number("split.tensors.count", len(owner))
    if wanted != len(owner):
        raise CheckpointError(
            f"wanted {wanted} tensors in the parts of {first.path}, found {len(owner)}", DOWNLOAD_AGAIN
        )


def _without_long_values(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata without vocabularies, chat templates and long texts, which are too large for a Plan; the tokenizer
    reads its own.
    """
    small: dict[str, Any] = {}
    for key, value in metadata.items():
        if key.startswith("tokenizer.chat_template"):
            continue
        if isinstance(value, StringArray):
            if len(value) <= MAX_PLAN_ITEMS and value.nbytes <= MAX_PLAN_TEXT:
                small[key] = list(value)
        elif isinstance(value, tuple):
            if len(value) <= MAX_PLAN_ITEMS and not any(isinstance(item, (tuple, StringArray)) for item in value):
                small[key] = list(value)
        elif not isinstance(value, str) or len(value) <= MAX_PLAN_TEXT:
            small[key] = value
    return small


def _generation_config(metadata: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if ends := end_ids(metadata):
        config["eos_token_id"] = ends
    if (begin := _token_id(metadata, "bos_token_id")) is not None:
        config["bos_token_id"] = begin
    return config


def end_ids(metadata: dict[str, Any]) -> list[int]:
    """Ids of the tokens that end an output: first those that the file names, then those of the list above that it
    has.
    """
    ids = [i for key in END_IDS if (i := _token_id(metadata, key)) is not None]
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, StringArray):
        customary = tokens.find(END_TEXTS)
        if any(texts <= set(customary) for texts in NO_ENDS):
            del customary["<|end|>"]
        ids += customary.values()
    return list(dict.fromkeys(ids))


def _token_id(metadata: dict[str, Any], key: str) -> int | None:
    """A special token's id. Many files name one that their vocabulary lacks, to say that there is none."""
    found, tokens = metadata.get(f"tokenizer.ggml.{key}"), metadata.get("tokenizer.ggml.tokens")
    end = len(tokens) if isinstance(tokens, StringArray) else MAX_NUMBER
    return found if type(found) is int and 0 <= found < end else None

"""The tokenizer files of a Hugging Face checkpoint: ``tokenizer.json``, what its configuration adds, and chat templates."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from dovetail.api.checkpoint import TokenizerParts
from dovetail.api.errors import CheckpointError
from dovetail.api.text import read_text

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Named special tokens, which chat templates can use."""
DEFAULT_TEMPLATE = "default"


def read_tokenizer_parts(path: str) -> TokenizerParts:
    """Read the tokenizer files of a Hugging Face checkpoint.

    ``tokenizer.json`` defines encoding, including special tokens around a text. The other files name the special tokens
    and contain the chat templates. Without it, transformers converts the older files, if it is installed.

    Args:
        path: a folder, or the ``tokenizer.json`` in it.

    Raises:
        CheckpointError: the files are missing or malformed.
    """
    folder = Path(path)
    if folder.is_file():
        folder = folder.parent
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return _convert_with_transformers(folder)
    try:
        backend = tokenizers.Tokenizer.from_str(read_text(file))
    except Exception as error:  # the library raises nothing more precise
        raise CheckpointError(
            f"{file} cannot be read: {error}",
            "fetch it again; if it was made by a newer version, update the package tokenizers",
        ) from None
    config = read_object(folder / CONFIG_FILE)
    declared = config.get("added_tokens_decoder") or {}
    special = {} if declared else read_object(folder / SPECIAL_FILE)
    special_tokens = {
        name: text for name in NAMED_TOKENS if (text := _read_token_text(special.get(name) or config.get(name)))
    }
    _add_declared_tokens(
        backend, [t for _, t in sorted(declared.items(), key=lambda item: int(item[0]))], [*special_tokens.values()]
    )
    return TokenizerParts(backend, special_tokens, chat_template=_read_chat_templates(folder, config))


def _read_token_text(token: Any) -> str | None:
    """A special token's text, which the files write as a string or as an object."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _add_declared_tokens(
    backend: tokenizers.Tokenizer, declared: Sequence[Mapping[str, Any]], special_tokens: Sequence[str]
) -> None:
    """Add tokens that only the configuration declares, in the order of their ids, and make the named ones special."""
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    missing = [
        AddedToken(
            entry["content"],
            single_word=entry.get("single_word", False),
            lstrip=entry.get("lstrip", False),
            rstrip=entry.get("rstrip", False),
            normalized=entry.get("normalized", True),
            special=entry.get("special", False),
        )
        for entry in declared
        if entry["content"] not in known
    ]
    if missing:
        backend.add_tokens(missing)
    known |= {token.content: token for token in missing}
    plain = [known.get(text) or AddedToken(text, normalized=False) for text in dict.fromkeys(special_tokens)]
    if plain := [token for token in plain if not token.special]:
        backend.add_special_tokens(plain)


def _read_chat_templates(folder: Path, config: Mapping[str, Any]) -> str | dict[str, str] | None:
    """Chat templates. Separate files have precedence over an entry in the configuration."""
    found: dict[str, str] = {}
    declared = config.get("chat_template")
    if isinstance(declared, list):
        found = {str(entry["name"]): str(entry["template"]) for entry in declared if isinstance(entry, Mapping)}
    elif isinstance(declared, str):
        found = {DEFAULT_TEMPLATE: declared}
    if isinstance(text := read_object(folder / "chat_template.json").get("chat_template"), str):
        found[DEFAULT_TEMPLATE] = text
    files = {DEFAULT_TEMPLATE: folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found |= {name: read_text(file) for name, file in files.items() if file.is_file()}
    return found[DEFAULT_TEMPLATE] if [*found] == [DEFAULT_TEMPLATE] else found or None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if there is no such file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(read_text(file))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not readable JSON ({error})", "repair or fetch it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{file} holds a JSON {type(value).__name__}, wanted an object", "repair or fetch it again"
        )
    return value


def _convert_with_transformers(folder: Path) -> TokenizerParts:
    """Convert tokenizer files that are older than ``tokenizer.json`` with transformers."""
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError(
            f"wanted {TOKENIZER_FILE} in {folder}, found none",
            "complete the download, name another tokenizer with --tokenizer, or let transformers convert older files: "
            "pip install 'dovetail[transformers]'",
        )
    from transformers import AutoTokenizer

    try:
        converted = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"wanted {TOKENIZER_FILE} in {folder}, found none, and transformers cannot make one ({reason})",
            "complete the download, or name another tokenizer with --tokenizer",
        ) from error
    backend = getattr(converted, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise CheckpointError(
            f"the tokenizer in {folder} exists only as {type(converted).__name__} in transformers, without {TOKENIZER_FILE}",
            "name another tokenizer with --tokenizer",
        )
    special_tokens = {name: str(token) for name in NAMED_TOKENS if (token := getattr(converted, name, None))}
    return TokenizerParts(backend, special_tokens, chat_template=converted.chat_template)

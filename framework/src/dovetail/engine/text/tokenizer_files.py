"""The tokenizer files of a Hugging Face checkpoint: ``tokenizer.json``, what its configuration adds, and chat templates."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from dovetail.api.checkpoint import TokenizerParts
from dovetail.api.errors import CheckpointError
from dovetail.api.json_files import MAX_BYTES, REPAIR, quote_fault, read_json
from dovetail.api.text import one_line, quote_foreign, read_text
from dovetail.engine.text.library_errors import MAX_REASON, explain_file_errors
from dovetail.engine.text.pattern_costs import check_patterns

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Named special tokens, which chat templates can use."""
DEFAULT_TEMPLATE = "default"
TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
MAX_TOKENIZER_BYTES = 128 * 2**20
"""The most bytes of a ``tokenizer.json``. The largest published ones have 34 MB."""
TRIED_TOKENS = 32
"""Tokens of which a tokenizer must be able to encode one."""


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
    if not os.path.lexists(file):
        return _convert_with_transformers(folder)
    backend = _read_backend(file)
    config = read_object(folder / CONFIG_FILE)
    declared = _read_declared_tokens(folder / CONFIG_FILE, config)
    special = {} if declared else read_object(folder / SPECIAL_FILE)
    special_tokens = {
        name: text for name in NAMED_TOKENS if (text := _read_token_text(special.get(name) or config.get(name)))
    }
    with explain_file_errors(file):
        _add_declared_tokens(backend, declared, [*special_tokens.values()])
        check_patterns(backend, file)
        _check_usable(backend, file)
    return TokenizerParts(backend, special_tokens, chat_template=_read_chat_templates(folder, config))


def _read_backend(file: Path) -> tokenizers.Tokenizer:
    try:
        text = read_text(file, MAX_TOKENIZER_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror or error})", REPAIR) from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is no text ({quote_fault(error)})", REPAIR) from None
    with explain_file_errors(file):
        backend = tokenizers.Tokenizer.from_str(text)
        # Both are of no use here, and a file may ask for a text of 10**12 tokens.
        backend.no_padding()
        backend.no_truncation()
    return backend


def _check_usable(backend: tokenizers.Tokenizer, file: Path) -> None:
    """Refuse a tokenizer that can encode none of its own tokens, whatever the reason."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise CheckpointError(f"{file} holds no tokens, wanted a vocabulary", REPAIR)
    backend.encode("")
    for rest, id in enumerate(list(vocabulary.values())[:TRIED_TOKENS], 1 - min(len(vocabulary), TRIED_TOKENS)):
        try:
            backend.encode(backend.decode([id], skip_special_tokens=False))
            return
        except Exception:
            if not rest:
                raise


def _read_declared_tokens(file: Path, config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of ``added_tokens_decoder``, in the order of their ids."""
    declared = config.get("added_tokens_decoder")
    if declared is None:
        return []
    if not isinstance(declared, dict):
        raise CheckpointError(
            f"added_tokens_decoder is {quote_foreign(declared)} in {file}, wanted an object of tokens by id", REPAIR
        )
    found = []
    for id, entry in declared.items():
        if not (id.isascii() and id.isdigit() and len(id) < 10):
            raise CheckpointError(
                f"added_tokens_decoder has the key {quote_foreign(id)} in {file}, wanted a token id below 10**9", REPAIR
            )
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or not entry["content"]:
            raise CheckpointError(
                f"added_tokens_decoder's token {id} is {quote_foreign(entry)} in {file}, wanted an object with its content",
                REPAIR,
            )
        for flag in TOKEN_FLAGS:
            if not isinstance(entry.get(flag, False), bool):
                raise CheckpointError(
                    f"added_tokens_decoder's token {id} has {flag} {quote_foreign(entry[flag])} in {file}, wanted true or false",
                    REPAIR,
                )
        found.append((int(id), entry))
    return [entry for _, entry in sorted(found, key=itemgetter(0))]


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
        for entry in declared:
            named = isinstance(entry, dict) and isinstance(entry.get("name"), str)
            if not named or not isinstance(entry.get("template"), str):
                raise _no_template(folder / CONFIG_FILE, entry, "objects with a name and a template")
            found[entry["name"]] = entry["template"]
    elif isinstance(declared, str):
        found = {DEFAULT_TEMPLATE: declared}
    elif declared is not None:
        raise _no_template(folder / CONFIG_FILE, declared, "a text, or a list of them by name")
    older = folder / "chat_template.json"
    if (text := read_object(older).get("chat_template")) is not None:
        if not isinstance(text, str):
            raise _no_template(older, text, "a text")
        found[DEFAULT_TEMPLATE] = text
    files = {DEFAULT_TEMPLATE: folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found |= {name: _read_template(file) for name, file in files.items() if os.path.lexists(file)}
    return found[DEFAULT_TEMPLATE] if [*found] == [DEFAULT_TEMPLATE] else found or None


def _no_template(file: Path, found: Any, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"chat_template in {file} is or has {quote_foreign(found)}, wanted {wanted}",
        "repair it, or give another template with --chat-template",
    )


def _read_template(file: Path) -> str:
    try:
        return read_text(file, MAX_BYTES)
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError as error:
        reason = quote_fault(error)
    raise CheckpointError(
        f"the chat template {file} is no text ({reason})", "repair it, or give another template with --chat-template"
    )


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if there is no such file.

    Raises:
        CheckpointError: it cannot be read.
    """
    return read_json(file, dict, CheckpointError)


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
        reason = one_line((str(error).strip().splitlines() or [type(error).__name__])[0], MAX_REASON)
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

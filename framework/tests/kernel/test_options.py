"""Options as they are written."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from dovetail import EngineArgs
from dovetail.api import CheckpointError, UsageError
from dovetail.kernel.checkpoints import find_checkpoint
from dovetail.kernel.options import PlanOptions, parse_byte_count
from dovetail.utils import FlexibleArgumentParser

from . import fakes
from .fakes import source
from .installation import plan, registry

SECRET = "hf_secret"
calls: list[dict[str, Any]] = []


def hub(reference: str | None, **given: Any) -> str | None:
    """A source that remembers what it was asked for."""
    if reference is None or not reference.startswith("org/"):
        return None
    calls.append({"reference": reference, **given})
    return fakes.HUB_FOLDER  # type: ignore[attr-defined,no-any-return]


def refusing(reference: str | None, **_: Any) -> str | None:
    raise CheckpointError("wanted the hub repository org/none, but there is none", "check the name")


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    calls.clear()
    monkeypatch.setattr(fakes, "HUB_FOLDER", str(folder), raising=False)


def hub_source(target: str = "hub") -> Any:
    return source("hub").model_copy(update={"target": f"{__name__}:{target}", "rank": 90})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096),
        ("4G", 4 << 30),
        ("2GiB", 2 << 30),
        ("1.5 GiB", 3 << 29),
        ("512M", 512 << 20),
        ("2GB", 2 * 10**9),
        ("25k", 25_000),
        ("64 KiB", 64 << 10),
        ("1T", 1 << 40),
        ("100B", 100),
    ],
)
def test_numbers_of_bytes(text: str, count: int) -> None:
    assert parse_byte_count(text) == count
    assert EngineArgs(kv_cache_memory_bytes=text).kv_cache_memory_bytes == count
    parsed = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(["--kv-cache-memory-bytes", text])
    assert EngineArgs.from_cli_args(parsed).kv_cache_memory_bytes == count


@pytest.mark.parametrize("text", ["", "G", "4X", "-4G", "4 G B", "nan", "1e9", "4GI"])
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="number of bytes"):
        EngineArgs(kv_cache_memory_bytes=text)


@pytest.mark.parametrize(
    ("flags", "token"),
    [([], None), (["--hf-token", SECRET], SECRET), (["--hf-token"], True), (["--hf-token=True"], True)],
)
def test_a_token_reaches_the_source_and_nothing_that_is_shown(flags: list[str], token: str | bool | None) -> None:
    parsed = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(["--model", "org/model", *flags])
    args = EngineArgs.from_cli_args(parsed)
    found = plan("org/model", hub_source(), hf_token=args.hf_token, tokenizer="org/other")
    assert [call["token"] for call in calls] == [token, token]
    for shown in (repr(args), str(args), args.to_json(), found.model_dump_json(), repr(found)):
        assert SECRET not in shown
    # A process that downloads is told over a private socket; a copy keeps it.
    assert EngineArgs.model_validate_json(args.to_json(with_token=True)).hf_token == token
    assert pickle.loads(pickle.dumps(args)).hf_token == token


def test_the_tokenizer_has_a_revision_of_its_own(folder: Path) -> None:
    plan("org/model", hub_source(), revision="v1", tokenizer_revision="v2")
    assert [(call["reference"], call["revision"]) for call in calls] == [("org/model", "v1"), ("org/model", "v2")]
    assert "*.w" in calls[0]["patterns"]
    assert "*.w" not in calls[1]["patterns"]
    calls.clear()
    found = plan(folder, hub_source(), tokenizer="org/other", tokenizer_revision="v3")
    assert [(call["reference"], call["revision"]) for call in calls] == [("org/other", "v3")]
    assert found.checkpoint.tokenizer_path == str(folder)


def test_what_has_no_revisions(folder: Path) -> None:
    for options in ({}, {"tokenizer": str(folder)}):
        with pytest.raises(UsageError, match=r"--tokenizer-revision v2 was given, and .* is no repository"):
            plan(folder, hub_source(), tokenizer_revision="v2", **options)


def test_a_repository_that_is_not_there_is_told_as_the_tokenizers(folder: Path) -> None:
    options = PlanOptions(tokenizer="org/none")
    with pytest.raises(CheckpointError, match=r"^--tokenizer org/none: wanted the hub repository"):
        find_checkpoint(str(folder), options, registry(hub_source("refusing")), [])

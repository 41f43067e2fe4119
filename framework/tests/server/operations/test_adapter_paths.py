"""Requests have adapters loaded from where the operator allows it, and from nowhere else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from server_fakes import FakeEngine

from dovetail.server.http.errors import ApiError
from dovetail.server.operations.adapter_paths import resolve_adapter_path
from dovetail.server.settings import ServerSettings

LOAD = "/v1/load_lora_adapter"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder with an adapter, and a secret beside it."""
    (tmp_path / "allowed" / "poet").mkdir(parents=True)
    (tmp_path / "allowed" / "poet" / "adapter_config.json").write_text("{}")
    (tmp_path / "allowed-not" / "poet").mkdir(parents=True)
    (tmp_path / "secret.json").write_text("{}")
    return tmp_path / "allowed"


def is_permitted(path: str | Path, **settings: object) -> bool:
    try:
        resolve_adapter_path(str(path), ServerSettings(**settings))  # type: ignore[arg-type]
    except ApiError:
        return False
    return True


def test_nothing_is_allowed_by_default(root: Path, ask, engine: FakeEngine) -> None:
    for path in (str(root / "poet"), "org/name", "/", "gone"):
        answer = ask("POST", LOAD, json={"lora_name": "a", "lora_path": path})
        assert answer.status_code == 403
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("lora_path", "path_not_allowed")
        assert "--allowed-adapter-path" in error["message"]
        assert "--allow-adapter-downloads" in error["message"]
    assert not engine.calls


def test_allowed_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"allowed_adapter_path": [str(root)]}
    monkeypatch.chdir(root.parent)
    for path in (root / "poet", root, f"{root}/../allowed/poet", "allowed/poet", f"{root}//poet/."):
        assert is_permitted(path, **settings), path
    assert is_permitted(root / "poet", allowed_adapter_path=["allowed"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "..",
        "../secret.json",
        "{root}-not/poet",
        "{root}/../allowed-not/poet",
        "{root}/..",
        "poet",
        "",
        "~",
        "a\x00b",
        "org/name",
        "file://{root}/poet",
        "http://127.0.0.1/poet",
    ],
)
def test_what_lies_elsewhere_is_refused(root: Path, path: str) -> None:
    assert not is_permitted(path.replace("{root}", str(root)), allowed_adapter_path=[str(root)])


@pytest.mark.parametrize("part", ["a", "a/", "../", "./", "/"])
def test_long_paths_are_not_looked_up(root: Path, part: str) -> None:
    begun = time.monotonic()
    assert not is_permitted(f"{root}/{part * 4_000_000}", allowed_adapter_path=[str(root)])
    assert time.monotonic() - begun < 1  # to resolve them takes minutes


def test_links_that_lead_out_are_refused(root: Path) -> None:
    settings = {"allowed_adapter_path": [str(root)]}
    (root / "link").symlink_to(root.parent / "allowed-not" / "poet")
    (root / "circle").symlink_to(root / "circle")
    (root / "within").symlink_to(root / "poet")
    assert is_permitted(root / "within", **settings)
    assert not is_permitted(root / "link", **settings)
    assert not is_permitted(root / "circle", **settings)
    (root / "poet" / "adapter_model.safetensors").symlink_to(root.parent / "secret.json")
    assert not is_permitted(root / "poet", **settings)
    # A hub's cache, whose snapshots link to files beside them.
    (root / "blobs").mkdir()
    (root / "blobs" / "a").touch()
    (root / "snapshot").mkdir()
    (root / "snapshot" / "adapter_config.json").symlink_to("../blobs/a")
    assert is_permitted(root / "snapshot", **settings)
    assert not is_permitted(root / "snapshot", allowed_adapter_path=[str(root / "snapshot")])


def test_what_is_told_is_the_same_whether_or_not_it_exists(root: Path) -> None:
    def told(path: Path) -> str:
        with pytest.raises(ApiError) as error:
            resolve_adapter_path(str(path), ServerSettings(allowed_adapter_path=[str(root)]))
        return error.value.message.replace(str(path), "")

    assert told(root.parent / "secret.json") == told(root.parent / "absent.json")


def test_downloads_have_a_flag_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    assert is_permitted("org/name", allow_adapter_downloads=True)
    for path in (
        "org",
        "org/name/x",
        "../name",
        "org/..",
        "./name",
        "http://x/y",
        "allowed/poet",
        "/org/name",
        "org\\name",
    ):
        assert not is_permitted(path, allow_adapter_downloads=True), path
    assert not is_permitted(root / "poet", allow_adapter_downloads=True)


def test_the_engine_is_given_the_real_folder(root: Path, ask, engine: FakeEngine) -> None:
    (root / "within").symlink_to(root / "poet")
    settings = ServerSettings(allowed_adapter_path=[str(root)])
    answer = ask("POST", LOAD, json={"lora_name": "a", "lora_path": str(root / "within")}, settings=settings)
    assert answer.status_code == 200
    assert engine.calls == [("add_adapter", "a", str((root / "poet").resolve()))]

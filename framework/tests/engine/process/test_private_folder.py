"""Sockets of a server's processes: where they are, and that no other user can reach or replace them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from dovetail.api import DovetailError
from dovetail.engine.process import ipc, private_folder
from dovetail.engine.process.ipc import PrivateSocket
from dovetail.engine.process.private_folder import create_private_folders, is_private

LONG = "x" * 100


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, with a short path, and the only place there is."""
    found = Path(tempfile.mkdtemp(prefix="t", dir="/tmp")).resolve()
    monkeypatch.setattr(tempfile, "tempdir", str(found))
    monkeypatch.setattr(private_folder, "_places", lambda: [found])
    yield found
    shutil.rmtree(found)


def test_a_socket_in_a_folder_of_its_own(place: Path) -> None:
    private = PrivateSocket(zmq.DEALER)
    assert private.address == f"ipc://{private.folder}/socket"
    assert private.folder.parent == place
    assert is_private(private.folder)
    assert stat.S_ISSOCK((private.folder / "socket").stat().st_mode)
    private.close()
    assert not list(place.iterdir())


def test_a_long_path_is_no_reason_to_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / LONG / LONG
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    private = PrivateSocket(zmq.DEALER)
    assert private.address.startswith("ipc:///")
    assert len(private.address.removeprefix("ipc://")) <= zmq.IPC_PATH_MAX_LEN
    assert is_private(private.folder)
    assert not list(folder.iterdir())
    private.close()
    assert not private.folder.exists()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o772])
@pytest.mark.parametrize("above", [False, True])
def test_no_folder_where_others_may_rename_it(
    place: Path, mode: int, above: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = place / "inner"
    inner.mkdir(mode=0o700)
    shared = place if above else inner
    if os.geteuid() == 0:
        os.chown(shared, -1, 12345)
    monkeypatch.setattr(private_folder, "_places", lambda: [inner])
    shared.chmod(mode)
    assert not list(create_private_folders(200))
    shared.chmod(mode | stat.S_ISVTX)
    assert len(list(create_private_folders(200))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_no_folder_below_that_of_another_user(place: Path) -> None:
    os.chown(place, 12345, -1)
    assert not list(create_private_folders(200))


def test_no_folder_without_permissions(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = tempfile.mkdtemp

    def create_open(**options: str) -> str:  # as some file systems do
        path = create(**options)
        os.chmod(path, 0o755)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", create_open)
    assert not list(create_private_folders(200))
    assert not list(place.iterdir())


@pytest.mark.parametrize("why", ["no place", "no sockets there", "no unix sockets"])
def test_without_a_place_there_is_no_socket(place: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "no place":
        monkeypatch.setattr(private_folder, "_places", lambda: [place / "gone"])
    elif why == "no sockets there":
        monkeypatch.setattr(ipc, "IPC", "no-such-transport://")
    else:
        monkeypatch.setattr(zmq, "has", lambda capability: capability != "ipc")
    with pytest.raises(DovetailError, match=r"other users can.*; (set TMPDIR|install pyzmq)") as error:
        PrivateSocket(zmq.DEALER)
    assert "\n" not in str(error.value)
    assert not list(place.iterdir())


def test_places_are_absolute_and_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "link"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    places = private_folder._places()
    assert places[0] == (tmp_path / "real").resolve()
    assert all(place.is_absolute() for place in places)
    assert Path("relative").resolve() not in places

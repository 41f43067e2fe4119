"""Our options that other engines divide into several."""

from __future__ import annotations

from dovetail.utils.foreign.option import FILE, FOLDER, HOST, PORT, REPOSITORY

PARTS = (FILE, FOLDER, REPOSITORY, HOST, PORT)


def join_parts(parts: dict[str, str]) -> dict[str, str]:
    """Join the given parts to our options."""
    found = {"model": model_reference(parts), "url": server_url(parts)}
    return {name: value for name, value in found.items() if value is not None}


def model_reference(parts: dict[str, str]) -> str | None:
    """A repository or a folder, and perhaps a file in it."""
    folder, repository, file = parts.get(FOLDER), parts.get(REPOSITORY), parts.get(FILE)
    if folder is not None:
        return f"{folder.rstrip('/') or '/'}/{file}" if file else folder
    if repository is not None:
        return f"{repository}:{file}" if file else repository
    return file


def server_url(parts: dict[str, str]) -> str | None:
    """The URL of a server from host and port; both have defaults."""
    if HOST not in parts and PORT not in parts:
        return None
    host = parts.get(HOST, "127.0.0.1")
    return f"http://{f'[{host}]' if ':' in host else host}:{parts.get(PORT, '8000')}"

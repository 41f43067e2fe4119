"""Reads encoded images: data URLs, files below the allowed folder, addresses of allowed hosts. Nothing else is read, and
never more bytes than the limit.

It blocks, so it is called from threads.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from dovetail.api.errors import RequestError
from dovetail.api.files import open_regular
from dovetail.api.text import quote_foreign
from dovetail.engine.images.rules import ImageRules

FETCH_SECONDS = 10.0
"""Most seconds to fetch an image in, all redirects together."""
MAX_REDIRECTS = 3
SCHEMES = "data:image/…;base64,…, file:///… or https://…"


def refuse(problem: str, hint: str = "") -> RequestError:
    """The error of an image that cannot be read (HTTP 400)."""
    return RequestError(problem, hint, param="messages")


def read_place(url: str, rules: ImageRules) -> bytes:
    """The bytes of an encoded image.

    Raises:
        RequestError: it is from a place that is not allowed, too large, or not there.
    """
    scheme = url[:16].partition(":")[0].lower()
    if scheme == "data":
        return _read_data_url(url, rules)
    if scheme == "file":
        return _read_file(url, rules)
    if scheme in ("http", "https"):
        return _fetch(url, rules)
    raise refuse(f"an image's URL is {quote_foreign(url, 60)}", f"give {SCHEMES}")


def _too_large(rules: ImageRules) -> RequestError:
    return refuse(
        f"an image has more than {rules.max_bytes} bytes, the limit (--max-image-bytes)", "give a smaller one"
    )


def _read_data_url(url: str, rules: ImageRules) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise refuse("a data URL of an image has no comma before its data", "give data:image/png;base64,…")
    if not head.lower().endswith(";base64"):
        if len(body) > 3 * rules.max_bytes:
            raise _too_large(rules)
        found = unquote_to_bytes(body)
    else:
        if len(body) > rules.max_bytes * 2:  # 4 characters are 3 bytes, and there may be escapes and line ends
            raise _too_large(rules)
        text = unquote(body) if "%" in body else body
        try:
            found = base64.b64decode(
                "".join(text.split()), altchars=b"-_" if "-" in text or "_" in text else None, validate=True
            )
        except (binascii.Error, ValueError):
            raise refuse("the data URL of an image is no valid base64", "encode the image's file") from None
    if len(found) > rules.max_bytes:
        raise _too_large(rules)
    return found


def _read_file(url: str, rules: ImageRules) -> bytes:
    if rules.folder is None:
        raise refuse(
            "no files may be read as images here", "the operator allows a folder with --allowed-local-media-path"
        )
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise refuse(f"the file URL of an image names a host, {quote_foreign(parts.netloc)}", "give file:///path")
    not_below = refuse(
        f"{quote_foreign(parts.path, 200)} is not an image's file below the folder that this server reads images from",
        "the operator chose that folder with --allowed-local-media-path",
    )
    try:
        path = os.path.realpath(unquote(parts.path))
    except ValueError:  # a null in it
        raise not_below from None
    if not path.startswith(os.path.join(rules.folder, "")):
        raise not_below
    try:
        with open_regular(path) as file:
            # What was opened is what was looked at: nobody has put a link in its place meanwhile.
            if os.path.realpath(path) != path or not os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
                raise not_below
            found = file.read(rules.max_bytes + 1)
    except OSError:
        raise not_below from None
    if len(found) > rules.max_bytes:
        raise _too_large(rules)
    return found


def _fetch(url: str, rules: ImageRules) -> bytes:
    import httpx2  # with the first image that is fetched

    try:
        target = httpx2.URL(url)
        _check_host(target, rules)
        with httpx2.Client(follow_redirects=False, timeout=FETCH_SECONDS) as client:
            deadline = time.monotonic() + FETCH_SECONDS  # the client's certificates are read by now
            for _ in range(MAX_REDIRECTS + 1):
                # Asked of the very object that the client connects by, for each place on the way.
                _check_host(target, rules)
                headers = {"accept": "image/*", "accept-encoding": "identity"}
                with client.stream("GET", target, headers=headers) as response:
                    if response.is_redirect:
                        target = target.join(response.headers["location"])
                        continue
                    if response.status_code != 200:
                        raise refuse(f"the image at {_shown(target)} was answered with status {response.status_code}")
                    return _read_body(response, rules, deadline, _shown(target))
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise refuse(
            f"an image could not be fetched ({type(error).__name__})", "check its address, or send a data URL"
        ) from None
    raise refuse(f"an image's address is redirected more than {MAX_REDIRECTS} times", "give the last address")


def _shown(target: Any) -> str:
    """An address without what may be secret in it."""
    return quote_foreign(f"{target.scheme}://{target.host}{target.path}", 200)


def _check_host(target: Any, rules: ImageRules) -> None:
    host = target.host.lower().rstrip(".")
    if target.scheme not in ("http", "https"):
        raise refuse(f"an image's address leads to the scheme {quote_foreign(target.scheme)}", "give https://…")
    if target.userinfo:
        raise refuse("an image's address holds a user name", "leave it out")
    if host not in rules.domains:
        allowed = f"only from {', '.join(sorted(rules.domains))}" if rules.domains else "from no host"
        raise refuse(
            f"an image is at the host {quote_foreign(host)}, and this server fetches images {allowed}",
            "the operator allows hosts with --allowed-media-domains; a data URL works without",
        )


def _read_body(response: Any, rules: ImageRules, deadline: float, shown: str) -> bytes:
    if (response.headers.get("content-encoding") or "identity").lower() != "identity":
        raise refuse(f"the image at {shown} is sent compressed, which was not asked for")
    found = bytearray()
    for piece in response.iter_raw():
        found += piece
        if len(found) > rules.max_bytes:
            raise _too_large(rules)
        if time.monotonic() > deadline:
            raise refuse(f"the image at {shown} takes longer than {FETCH_SECONDS:g} seconds to fetch")
    return bytes(found)

"""The web page at ``/``: one document that holds everything it needs, so that the browser loads nothing else.

The sources in ``page/`` are an ordinary page of several files. They are combined into one document at the first
request. The content security policy holds the hashes of exactly these scripts and styles, so text that a model writes
can never run as a script.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from dovetail.server.context import ServerContext
from dovetail.server.http.openapi import ERROR_RESPONSES

REFERENCE = re.compile(r'<link rel="stylesheet" href="([\w./-]+)">|<script src="([\w./-]+)"></script>')
SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*$", re.MULTILINE)
ACCEPTS_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
HEADERS = {
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Otherwise a browser may look up the host of every link in an answer, which tells that host's name server of it.
    "X-DNS-Prefetch-Control": "off",
}


@dataclass(frozen=True)
class Document:
    """The page as bytes, uncompressed and compressed, and its content security policy."""

    html: bytes
    compressed: bytes
    policy: str


def router(context: ServerContext) -> APIRouter:
    """The page."""
    routes = APIRouter(responses=ERROR_RESPONSES)

    @routes.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def show_page(request: Request) -> Response:
        page = document()
        headers = {"Content-Security-Policy": page.policy, **HEADERS}
        html = page.html
        if ACCEPTS_GZIP.search(request.headers.get("accept-encoding", "")):
            html, headers["Content-Encoding"] = page.compressed, "gzip"
        return Response(html, headers=headers, media_type="text/html; charset=utf-8")

    return routes


@cache
def document() -> Document:
    """``page/index.html`` with its scripts and styles inlined."""
    folder = files("dovetail.server") / "page"
    styles: list[str] = []
    scripts: list[str] = []

    def inline(reference: re.Match[str]) -> str:
        style, script = reference.groups()
        text = SOURCE_MAP.sub("", folder.joinpath(style or script).read_text(encoding="utf-8"))
        tag, hashes = ("style", styles) if style else ("script", scripts)
        assert f"</{tag}" not in text.lower(), f"{style or script} would end its own element"
        hashes.append(f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
        return f"<{tag}>{text}</{tag}>"

    html = REFERENCE.sub(inline, folder.joinpath("index.html").read_text(encoding="utf-8"))
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(scripts),
        "style-src": " ".join(styles),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        # Only the sanitiser may turn text into elements.
        "require-trusted-types-for": "'script'",
        "trusted-types": "dompurify",
    }
    sent = html.encode()
    return Document(sent, gzip.compress(sent, mtime=0), "; ".join(f"{name} {value}" for name, value in policy.items()))

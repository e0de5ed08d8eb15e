"""`/docs`, the page that shows `/openapi.json`; it loads nothing from other servers."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

_PAGE = (Path(__file__).parent / "docs.html").read_bytes()
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page() -> web.Response:
    """The page, with a policy that lets it talk to this server only."""
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": _POLICY}
    return web.Response(body=_PAGE, headers=headers)

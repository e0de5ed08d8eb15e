"""`/`, the first page: which model is served, a command to try, and where to read on."""

from __future__ import annotations

import html
import json
from typing import NamedTuple

from aiohttp import web

LINKS = (
    ("/docs", "the API, for people"),
    ("/openapi.json", "the API, for programs"),
    ("/v1/models", "the models"),
    ("/health", "whether requests can be answered, and why not"),
    ("/metrics", "metrics for Prometheus"),
    ("/dynamo/snapshot", "everything known about the processes"),
)

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

_HTML = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>dynamo-llm</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }}
body {{ max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }}
code, pre {{ font: 13px/1.5 ui-monospace, monospace; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8886; padding: .8rem; }}
</style>
<h1>dynamo-llm</h1>
<p>{state}</p>
<pre>{curl}</pre>
<ul>
{links}
</ul>
</html>
"""


class Welcome(NamedTuple):
    """What the page says.

    Attributes:
        version: of this program.
        models: names of the model; the first one is used in the command.
        serving: whether requests can be answered.
        reason: why not.
        base: URL under which the client has reached this server.
        has_keys: whether clients need an API key.
    """

    version: str
    models: tuple[str, ...]
    serving: bool
    reason: str
    base: str
    has_keys: bool

    @property
    def state(self) -> str:
        """What is served, or why nothing is."""
        names = ", ".join(self.models)
        now = f"serves {names}" if self.serving else f"will serve {names}; now: {self.reason}"
        return f"dynamo-llm {self.version} {now}"

    @property
    def curl(self) -> str:
        """A command to try. The name of the model is quoted for JSON and for a shell."""
        body = {
            "model": self.models[0] if self.models else "",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        }
        words = json.dumps(body).replace("'", "'\\''")
        key = "  -H 'Authorization: Bearer KEY' \\\n" if self.has_keys else ""
        return (
            f"curl {self.base}/v1/chat/completions \\\n{key}"
            f"  -H 'Content-Type: application/json' \\\n  -d '{words}'"
        )

    def text(self) -> str:
        """The page for a terminal."""
        width = max(len(path) for path, _ in LINKS)
        links = "".join(f"{path:{width}}  {what}\n" for path, what in LINKS)
        return f"{self.state}\n\n{self.curl}\n\n{links}"

    def html(self) -> str:
        """The page for a browser."""
        links = "\n".join(
            f'<li><a href="{path}"><code>{path}</code></a> {html.escape(what)}'
            for path, what in LINKS
        )
        return _HTML.format(state=html.escape(self.state), curl=html.escape(self.curl), links=links)


def page(welcome: Welcome, accept: str) -> web.Response:
    """The page in the form that the client wants.

    Args:
        accept: the header of that name: browsers ask for HTML, and get it.
    """
    if "text/html" in accept:
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": _POLICY}
        return web.Response(body=welcome.html().encode(), headers=headers)
    return web.Response(text=welcome.text())

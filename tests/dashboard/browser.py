"""A headless Chromium, and what it shows."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--window-size=1000,700", "--remote-debugging-port=0"),
)
PATIENCE_S = 40.0
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass
class Page:
    """A page that was opened.

    Attributes:
        text: text that was sent to the terminal in the page, without escape sequences.
        hosts: hosts to which the page has sent requests.
        started: whether the page has noticed its first output.
        picture: a screenshot, PNG.
    """

    text: str = ""
    hosts: set[str] = field(default_factory=set)
    started: bool = False
    picture: bytes = b""


async def browse(url: str, folder: Path, until: str) -> Page:
    """Open a page and wait until its terminal shows these words."""
    assert CHROMIUM is not None
    browser = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *OPTIONS,
        f"--user-data-dir={folder / 'browser'}",
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await _visit(await _address(browser), url, until)
    finally:
        browser.terminate()
        await browser.communicate()


async def _address(browser: asyncio.subprocess.Process) -> str:
    """Return the debugger's address of the page that is open."""
    assert browser.stderr is not None
    async for line in browser.stderr:
        if found := re.search(rb"DevTools listening on ws://([^/]+)/", line):
            pages_url = f"http://{found[1].decode()}/json/list"
            async with aiohttp.ClientSession() as session, session.get(pages_url) as answer:
                pages = await answer.json()
            return next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
    raise AssertionError("the browser has ended")


async def _visit(address: str, url: str, until: str) -> Page:
    page = Page()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, max_msg_size=0) as tab,
    ):
        numbers = itertools.count(1)

        async def call(method: str, **params: Any) -> Any:
            number = next(numbers)
            await tab.send_json({"id": number, "method": method, "params": params})
            async for message in tab:
                said = json.loads(message.data)
                _note(page, said)
                if said.get("id") == number:
                    return said["result"]
            raise AssertionError("the browser has ended")

        await call("Network.enable")
        await call("Page.enable")
        await call("Page.navigate", url=url)
        while until not in page.text or not page.started:
            script = "document.body !== null && document.body.classList.contains('-first-byte')"
            page.started = (await call("Runtime.evaluate", expression=script))["result"]["value"]
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)  # it draws at its own pace
        shot = await call("Page.captureScreenshot")
        page.picture = base64.b64decode(shot["data"])
    return page


def _note(page: Page, said: dict[str, Any]) -> None:
    match said.get("method"):
        case "Network.webSocketFrameReceived":
            frame = said["params"]["response"]
            data = frame["payloadData"]
            if frame["opcode"] == 2:
                data = base64.b64decode(data).decode(errors="replace")
            page.text += ESCAPES.sub("", data)
        case "Network.requestWillBeSent":
            page.hosts.add(urlsplit(said["params"]["request"]["url"]).netloc)

"""The first page: the model, a command that works, links; for browsers and for terminals."""

from __future__ import annotations

import asyncio
import json
import re
import shlex

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend.http.landing import LINKS, Welcome
from tests.frontend.stage import Stage

NASTY = """it's <b>"5"</b>"""


def welcome(**changed: object) -> Welcome:
    known = Welcome("1.0", (NASTY, "alias"), True, "", "http://127.0.0.1:8181", False)
    return known._replace(**changed)


def test_the_command_is_right_for_a_shell_whatever_the_model_is_called() -> None:
    words = shlex.split(welcome(has_keys=True).curl.replace("\\\n", " "))
    assert words[:2] == ["curl", "http://127.0.0.1:8181/v1/chat/completions"]
    assert "Authorization: Bearer KEY" in words
    assert json.loads(words[-1])["model"] == NASTY
    assert "Authorization" not in welcome().curl, "where no key is needed"


def test_nothing_of_a_name_is_taken_for_html() -> None:
    page = welcome().html()
    assert "<b>" not in page
    assert set(re.findall(r'href="(/[^"]*)"', page)) == {path for path, _ in LINKS}


def test_it_says_why_nothing_is_served() -> None:
    text = welcome(serving=False, reason="worker 0 is loading").text()
    assert text.startswith(f"dynamo-llm 1.0 will serve {NASTY}, alias; now: worker 0 is loading\n")


def test_browsers_get_html_and_others_text_and_nobody_needs_a_key() -> None:
    async def scenario() -> None:
        config = FrontendConfig(port=0, api_keys=("sesame",), served_names=("m",))
        async with Stage(config, serving=False) as stage:
            status, head, text = await stage.get("/")
            assert (status, head["Content-Type"]) == (200, "text/plain; charset=utf-8")
            assert f"curl {stage.url}/v1/chat/completions" in text
            assert "Bearer KEY" in text
            _, head, page = await stage.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
            assert head["Content-Type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in head["Content-Security-Policy"]
            assert "<h1>dynamo-llm</h1>" in page

    asyncio.run(scenario())


def test_it_is_alive_while_engines_are_not_there_yet() -> None:
    async def scenario() -> None:
        async with Stage(serving=False) as stage:
            assert (await stage.get("/live"))[0] == 200
            assert (await stage.get("/health"))[0] == 503

    asyncio.run(scenario())

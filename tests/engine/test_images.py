"""An image reaches whichever worker gets its request, also when the processor has sent it before.

The caches are vLLM's own, made from our configuration in a process that has imported vLLM.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dynamo_cli.config import EngineConfig
from tests.support import blip2
from tests.support.call import call
from tests.support.server import SMALL, Server, wait_until

pytestmark = pytest.mark.engine

BACK_S = 60.0


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "images"
    folder.mkdir()
    blip2.write(folder)
    return str(folder)


def sent(folder: str, options: list[str]) -> dict[str, Any]:
    """How many caches workers have, and whether each of three requests brings its image along."""
    import torch
    from vllm.multimodal import cache, inputs

    from dynamo_cli.engines.vllm.options import arguments

    config = EngineConfig("images", folder, ("images",), (*blip2.OPTIONS, *options), threads=1)
    made = arguments.engine_config(arguments.parse(config), config)
    receivers = (
        cache.engine_receiver_cache_from_config(made),
        cache.worker_receiver_cache_from_config(made, None),
    )
    in_workers = sum(receiver is not None for receiver in receivers)
    processor = cache.processor_cache_from_config(made)
    if processor is None:
        return {"in workers": in_workers, "in requests": []}
    field = inputs.MultiModalSharedField(batch_size=1)
    pixels = inputs.MultiModalFieldElem(data=torch.zeros(4, 4), field=field)
    item = inputs.MultiModalKwargsItem({"pixel_values": pixels})
    images = [processor.get_and_update_item(new, "hash")[0] for new in ((item, []), None, None)]
    return {"in workers": in_workers, "in requests": [image is not None for image in images]}


@pytest.mark.parametrize(
    ("options", "in_requests"),
    [
        ([], [True] * 3),
        (["--mm-processor-cache-gb", "0.01"], [True] * 3),
        (["--mm-processor-cache-gb", "0"], []),
    ],
)
def test_every_request_brings_its_images(
    model: str, options: list[str], in_requests: list[bool]
) -> None:
    assert call(sent, model, options) == {"in workers": 0, "in requests": in_requests}


def described(server: Server, red: int) -> tuple[int, str]:
    """The index of the worker that got an image, and what it says of it."""
    image = {"type": "image_url", "image_url": {"url": blip2.image(red)}}
    content = [image, {"type": "text", "text": "What is it?"}]
    body = {"model": "images", "max_tokens": 4, "temperature": 0}
    data = json.dumps({**body, "messages": [{"role": "user", "content": content}]}).encode()
    asked = urllib.request.Request(
        f"{server.url}/v1/chat/completions", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        said = json.load(answer)["choices"][0]["message"]["content"]
        return int(answer.headers["X-Dynamo-Worker"]), said


def test_workers_and_their_successors_get_an_image_that_the_processor_knows(model: str) -> None:
    shape = ("--workers", "2", "--processors", "1", "--router", "round-robin", "--debug-headers")
    options = (*SMALL, *blip2.OPTIONS, *shape, "--served-model-name", "images")
    with Server(*options, model=model) as server:
        answers = [described(server, red=10) for _ in range(4)]
        assert {worker for worker, _ in answers} == {0, 1}
        assert len({said for _, said in answers}) == 1
        before = server.pid_of("worker 0")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: server.pid_of("worker 0") != before, BACK_S, "it is started again")
        server.wait_ready(BACK_S)
        again = [described(server, red=10) for _ in range(2)]
        assert sorted(again) == sorted(set(answers))

"""Fetches the demo model from the hub into the user's Hugging Face cache."""

from __future__ import annotations

import threading
import urllib.request
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from dynamo_cli.models.demo import FILES, REPOSITORY, hub_cache
from dynamo_cli.models.progress import OnProgress, Progress, watching

ANSWER_TIMEOUT_S = 5.0
SIZE = 273_000_000  # bytes of FILES together


def download(on_progress: OnProgress) -> Path | None:
    """The folder of the model, or None when the hub is switched off or does not answer in time.

    Raises:
        OSError: the hub answered at first and then failed.
    """
    on_progress(Progress("asking the model hub"))
    if constants.HF_HUB_OFFLINE or not _answers():
        return None
    with watching("downloading from the model hub", _folder(), SIZE, on_progress):
        return Path(snapshot_download(REPOSITORY, allow_patterns=list(FILES)))


def _folder() -> Path:
    folder = hub_cache() / f"models--{REPOSITORY.replace('/', '--')}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _answers() -> bool:
    """Whether the hub gives the smallest file of the model within `ANSWER_TIMEOUT_S`."""
    answered: list[bool] = []

    def ask() -> None:
        url = f"{constants.ENDPOINT}/{REPOSITORY}/resolve/main/config.json"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S) as response:
                answered.append(response.status == 200)
        except OSError:
            answered.append(False)

    # A thread that may be left behind, because looking up a name obeys no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S)
    return any(answered)

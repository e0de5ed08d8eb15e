"""The model hub: whether it answers, and the download of the demo model."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from dynamo_cli.models.demo import FILES, REPOSITORY, cache_of
from dynamo_cli.models.progress import OnProgress, Progress, watching

ANSWER_TIMEOUT_S = 5.0
SIZE = 273_000_000  # bytes of FILES together


def download(on_progress: OnProgress) -> Path | None:
    """Download the demo model; None when the hub is switched off or does not answer in time.

    Raises:
        OSError: the hub answered at first, and the download failed.
    """
    on_progress(Progress("asking the model hub"))
    if constants.HF_HUB_OFFLINE or not _gives(f"{REPOSITORY}/resolve/main/config.json"):
        return None
    with watching("downloading from the model hub", _folder(), SIZE, on_progress):
        return Path(snapshot_download(REPOSITORY, allow_patterns=list(FILES)))


def _folder() -> Path:
    folder = cache_of(REPOSITORY)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def answers() -> bool:
    """Whether the hub answers anything within `ANSWER_TIMEOUT_S`."""
    return not constants.HF_HUB_OFFLINE and _status("") is not None


def _gives(path: str) -> bool:
    return _status(path) == HTTPStatus.OK


def _status(path: str) -> int | None:
    """The hub's HTTP status for a path; None when it does not answer in time."""
    answered: list[int] = []

    def ask() -> None:
        url = f"{constants.ENDPOINT}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S) as response:
                answered.append(response.status)
        except urllib.error.HTTPError as error:
            with error:
                answered.append(error.code)
        except OSError:
            return

    # In a thread that can be abandoned, because a DNS lookup obeys no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S)
    return answered[0] if answered else None

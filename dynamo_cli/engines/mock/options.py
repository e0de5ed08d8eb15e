"""vLLM's options that a simulated engine takes: sizes that replace those of its profile. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.errors import UsageError
from dynamo_cli.units import whole_number

SIZES = {
    "--block-size": "block_size",
    "--num-gpu-blocks-override": "num_blocks",
    "--max-num-seqs": "max_num_seqs",
    "--max-num-batched-tokens": "max_num_batched_tokens",
    "--max-model-len": "max_model_len",
}
NO_CACHE = "--no-enable-prefix-caching"
UNITS = {"k": 1000, "K": 1024, "m": 10**6, "M": 1 << 20}
"""Units of numbers such as ``32k`` and ``32K``, as in vLLM."""


def sized(profile: Profile, args: Sequence[str]) -> Profile:
    """The profile with the sizes that the options give.

    Raises:
        UsageError: a size is not a number, or is not possible.
    """
    given: dict[str, int] = {}
    for place, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag in SIZES:
            text = value if equals else "".join(args[place + 1 : place + 2])
            given[SIZES[flag]] = _number(flag, text)
    if "block_size" in given and "num_blocks" not in given:  # the same amount of memory
        tokens = profile.num_blocks * profile.block_size
        given["num_blocks"] = tokens // max(given["block_size"], 1)
    try:
        return msgspec.structs.replace(profile, **given)
    except ValueError as error:
        raise UsageError(f"the simulated engine cannot have these sizes: {error}.") from error


def _number(flag: str, text: str) -> int:
    digits, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    if (number := whole_number(digits)) is None:
        raise UsageError(f"{flag} of a simulated engine is a number, not {text!r}.")
    return number * unit

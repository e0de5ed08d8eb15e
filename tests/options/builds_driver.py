"""Compares the list of vLLM's options with vLLM, as if it was built for each kind of device.

python -m tests.options.builds_driver
"""

from __future__ import annotations

from vllm.platforms import current_platform

from dynamo_cli.engines.vllm import versions
from dynamo_cli.engines.vllm.options import declared, generate


def main() -> None:
    file = declared.file_of(versions.release())
    for device in ("cpu", "cuda", "xpu"):
        type(current_platform).device_type = device
        assert generate.changed() == [], (device, generate.changed())
        assert generate.generate() == file.read_bytes(), device
    declared.known()["--seed"].choices.append("1")
    assert generate.changed() == ["--seed"], generate.changed()


if __name__ == "__main__":
    main()

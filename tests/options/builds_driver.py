"""Compares the list of vLLM's options with vLLM, as if it was built for each kind of device.

python -m tests.options.builds_driver
"""

from __future__ import annotations

from vllm.platforms import current_platform

from dynamo_cli.engines.vllm.options import declared


def main() -> None:
    for device in ("cpu", "cuda", "xpu"):
        type(current_platform).device_type = device
        assert declared.changed() == [], (device, declared.changed())
        assert declared.generate() == declared.FILE.read_bytes(), device
    declared.known()["--seed"].choices.append("1")
    assert declared.changed() == ["--seed"], declared.changed()


if __name__ == "__main__":
    main()

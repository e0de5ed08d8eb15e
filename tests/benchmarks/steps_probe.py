"""Notes, inside of engine processes, where the time of a step goes: for `tests.benchmarks.steps`.

`install` is called at the start of every Python process below the benchmark. It waits until vLLM's
engine core is imported, or our loop around it, and then takes the time of their parts. Each engine
process appends a line of JSON per step to a file of its own.
"""

from __future__ import annotations

import functools
import gc
import importlib.abc
import importlib.machinery
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = "DYNAMO_STEPS_FOLDER"
"""Environment variable with the folder for the files."""

EVERY = 500
"""Steps between two writes to the file. A write takes some milliseconds; its step is marked."""

DEVICE = "device"
"""File in the folder whose presence asks for the next `DEVICE_STEPS` steps to be profiled."""

DEVICE_STEPS = 300

now = time.perf_counter_ns


class Probe:
    """Takes the times of one engine process.

    Attributes:
        parts: nanoseconds since the last step that gave outputs, by part of the loop.
    """

    def __init__(self) -> None:
        self.parts: dict[str, int] = {}
        self._lines: list[str] = []
        self._last = now()
        self._began = 0
        self._step: dict[str, int] = {}
        self._idle = False
        self._collecting = 0
        self._device: Any = None
        self._device_steps = 0
        self._thread = threading.get_ident()
        gc.callbacks.append(self._collected)

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function, which adds its time to a part."""

        @functools.wraps(work)
        def wrapped(*args: Any, **named: Any) -> Any:
            began = now()
            try:
                return work(*args, **named)
            finally:
                self.parts[name] = self.parts.get(name, 0) + now() - began

        return wrapped

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Take the time of a method of this object."""
        setattr(owner, method, self.timed(name, getattr(owner, method)))

    def waits(self, owner: Any) -> None:
        """Note when the loop polls with time to wait: then nothing runs."""
        poll = self.timed("poll", owner.poll)

        def polled(timeout_s: float | None) -> Any:
            self._idle |= timeout_s != 0
            return poll(timeout_s)

        owner.poll = polled

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = now()
        elif threading.get_ident() == self._thread:
            name = f"gc{info['generation']}"
            self.parts[name] = self.parts.get(name, 0) + now() - self._collecting

    def updating(self, scheduled: Any) -> None:
        """Note what was in the step whose results have come."""
        self._step = {
            "requests": len(scheduled.num_scheduled_tokens),
            "tokens": scheduled.total_num_scheduled_tokens,
            "prompts": len(scheduled.scheduled_new_reqs),
        }

    def stepped(self, before: int, given: bool, left: bool) -> None:
        """Note the end of a step. `before`: when it began; `left`: whether requests remain."""
        end = now()
        self.parts["step"] = self.parts.get("step", 0) + end - before
        if not given:
            return
        record = {"gap": 0 if self._idle else end - self._last, **self._step, **self.parts}
        self._lines.append(json.dumps(record))
        self._last, self.parts, self._idle = end, {}, not left
        if len(self._lines) >= EVERY:
            self._write()
            self._idle = True  # this gap is ours

        self._profile()

    def _profile(self) -> None:
        """Start, count on or end the profile of the device."""
        folder = Path(os.environ[FOLDER])
        if self._device is None and (folder / DEVICE).exists():
            import torch

            (folder / DEVICE).unlink(missing_ok=True)
            activities = [torch.profiler.ProfilerActivity.CUDA]
            self._device = torch.profiler.profile(activities=activities)
            self._device.start()
            self._device_steps = 0
        elif self._device is not None:
            self._device_steps += 1
            if self._device_steps == DEVICE_STEPS:
                self._device.stop()
                busy = busy_share(self._device.profiler.kineto_results.events())
                (folder / f"{os.getpid()}.busy").write_text(json.dumps(busy))
                self._device = None
                self._idle = True

    def _write(self) -> None:
        path = Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl"
        with path.open("a") as file:
            file.write("\n".join(self._lines) + "\n")
        self._lines = []


def busy_share(events: list[Any]) -> dict[str, float]:
    """How much of the time between its first and its last work the device worked.

    Returns:
        `busy`, a share; `whole_ms`; the number of pauses longer than 20 us, which are not those
        between the kernels of a step, and their share; the longest pause in us.
    """
    work = sorted(
        (one.start_ns(), one.start_ns() + one.duration_ns())
        for one in events
        if "CUDA" in str(one.device_type()) and one.duration_ns()
    )
    if not work:
        return {}
    end, busy, pauses = work[0][0], 0, []
    for start, stop in work:
        if start > end:
            pauses.append((start - end) / 1e3)
        busy += max(0, stop - max(start, end))
        end = max(end, stop)
    whole, pauses = end - work[0][0], sorted(pauses)
    between = [one for one in pauses if one > 20]
    return {
        "busy": busy / whole,
        "whole_ms": whole / 1e6,
        "pauses_above_20us": len(between),
        "their_share": 1e3 * sum(between) / whole,
        "longest_us": pauses[-1] if pauses else 0.0,
    }


probe: Probe | None = None


def _the_probe() -> Probe:
    global probe  # noqa: PLW0603 - one per process
    if probe is None:
        probe = Probe()
    return probe


def _core(module: Any) -> None:
    """Take the times of vLLM's engine core."""
    for name in ("step", "step_with_batch_queue"):
        setattr(module.EngineCore, name, _stepping(getattr(module.EngineCore, name)))
    preprocess = module.EngineCore.preprocess_add_request

    def preprocessed(self: Any, request: Any) -> Any:
        """Not timed in vLLM's server, which does it in a thread."""
        if threading.current_thread() is not threading.main_thread():
            return preprocess(self, request)
        return _the_probe().timed("preprocess", preprocess)(self, request)

    module.EngineCore.preprocess_add_request = preprocessed


def _stepping(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(step)
    def stepped(self: Any) -> Any:
        watch = _the_probe()
        if not hasattr(self, "_watched"):
            self._watched = True
            _watch_core(watch, self)
        before = now()
        outputs, ran = step(self)
        given = bool(outputs) and any(batch.outputs for batch in outputs.values())
        watch.stepped(before, given, self.scheduler.has_requests())
        return outputs, ran

    return stepped


def _watch_core(watch: Probe, core: Any) -> None:
    watch.wrap(core.scheduler, "schedule", "schedule")
    update = watch.timed("update", core.scheduler.update_from_output)

    def updated(scheduled: Any, *args: Any) -> Any:
        watch.updating(scheduled)
        return update(scheduled, *args)

    core.scheduler.update_from_output = updated
    for method in ("execute_model", "sample_tokens"):
        watch.wrap(core.model_executor, method, "launch")


def _loop(module: Any) -> None:
    """Take the times of our loop."""
    init = module.EngineProcess.__init__

    def made(self: Any, *args: Any, **named: Any) -> None:
        init(self, *args, **named)
        watch = _the_probe()
        watch.waits(self._switchboard)
        for owner, method in (
            (self._duty, "admit"),
            (self._publisher, "publish"),
            (self._duty, "stepped"),
            (self._duty, "tick"),
            (self._engine, "rest"),
        ):
            name = "send" if method == "stepped" else method
            if hasattr(owner, method):
                watch.wrap(owner, method, name)

    module.EngineProcess.__init__ = made


PATCHES = {"vllm.v1.engine.core": _core, "dynamo_cli.worker.process": _loop}


class _Finder(importlib.abc.MetaPathFinder):
    """Patches these modules right after their import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def executed(module: Any) -> None:
            execute(module)
            PATCHES[name](module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Patch engines in this process and those that it forks."""
    if os.environ.get(FOLDER):
        sys.meta_path.insert(0, _Finder())

"""What vLLM's own offline `LLM` generates, in a process of its own (see `test_tokens`).

    python -m tests.api.offline_driver MODEL_FOLDER PROMPTS TOKENS OPTIONS

`PROMPTS` is a list as JSON, and `OPTIONS` an object with further arguments of `LLM`. The result is
the token ids of each answer.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from tests.support.driver import tell

ALONE = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""One process with one thread: several threads that wait for each other are slow on busy cores."""


def main(model: str, prompts: list[str], tokens: int, options: dict[str, Any]) -> list[list[int]]:
    os.environ.update(ALONE)
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype="float32", enforce_eager=True, kv_cache_memory_bytes=1 << 29, **options)
    params = SamplingParams(temperature=0, max_tokens=tokens)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


if __name__ == "__main__":
    tell(main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])))

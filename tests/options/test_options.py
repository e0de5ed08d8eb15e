"""Which engine options the command line accepts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.errors import UsageError
from tests.support import driver


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("", ""),
        ("--max-num-seqs 32", "--max-num-seqs 32"),
        ("--max-num-seqs=32", "--max-num-seqs=32"),
        ("--max_num_seqs 32", "--max-num-seqs 32"),
        ("--chat_template=my_file.jinja", "--chat-template=my_file.jinja"),
        ("--enforce-eager --seed 1", "--enforce-eager --seed 1"),
        ("--no-enable-prefix-caching", "--no-enable-prefix-caching"),
        ("--max-logprobs -1", "--max-logprobs -1"),
        ("--served-model-name a b --seed 1", "--served-model-name a b --seed 1"),
        ("--hf-token --seed 1", "--hf-token --seed 1"),
        ("--hf-token secret", "--hf-token secret"),
        ("--compilation_config.my_key 0", "--compilation-config.my_key 0"),
        ("-cc.mode=0 -cc.mode 1", "-cc.mode=0 -cc.mode 1"),
        ("--compilation-config.custom_ops+ none", "--compilation-config.custom_ops+ none"),
        ("-O3 -O=2 -O 1", "--optimization-level 3 --optimization-level 2 --optimization-level 1"),
        ("--quantization fp8 -q fp8", "--quantization fp8 -q fp8"),
        ("--kv-cache-dtype fp8", "--kv-cache-dtype fp8"),
        ("--moe-backend FLASHINFER-CUTLASS", "--moe-backend FLASHINFER-CUTLASS"),
        ("--allowed-local-media-path /data", "--allowed-local-media-path /data"),
        ("--tool-call-parser hermes", "--tool-call-parser hermes"),
    ],
)
def test_known_options_pass(typed: str, passed: str) -> None:
    assert declared.check(typed.split()) == tuple(passed.split())


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--max-num-seq 32", "no option --max-num-seq.*Did you mean --max-num-seqs?"),
        ("--workes 2", "Did you mean --workers?"),
        ("--xyzzy", r"no option --xyzzy, here or in vLLM's engine\.$"),
        ("--xyzzy.key 1", "no option --xyzzy.key"),
        ("-z", "no option -z"),
        ("stray", "'stray' is not a value of any option"),
        ("--enforce-eager true", "'true' is not a value of any option"),
        ("--enforce-eager=true", "--enforce-eager is a switch"),
        ("--max-num-seqs", "--max-num-seqs needs a value"),
        ("--max-num-seqs --seed 1", "--max-num-seqs needs a value"),
        ("--served-model-name", "--served-model-name needs a value"),
        ("--compilation-config.mode", "--compilation-config.mode needs a value"),
        ("--max-num-seqs 1 2", "'2' is not a value of any option"),
        ("--load-format", "--load-format needs a value"),
        ("--dtype flaot32", "--dtype cannot be 'flaot32'.*Did you mean float32?"),
        ("--dtype=flaot32", "--dtype cannot be 'flaot32'"),
        ("--collect-detailed-traces all modle", "cannot be 'modle'.*Did you mean model?"),
        ("--tensor-parallel-size 2", "use --worker-tp"),
        ("-tp 2", "-tp is not an engine option here: use --worker-tp"),
        ("--tensor_parallel_size=2", "use --worker-tp"),
        ("--port 8000", "use --http-port"),
        ("--data-parallel-size 2", "use --workers"),
        ("--data-parallel-rank 2", "use --workers"),
        ("-dp 2", "use --workers"),
        ("--no-data-parallel-hybrid-lb", "use --workers"),
        ("--kv-transfer-config.kv_role both", "--prefill-workers"),
        ("--kv-events-config {}", "--router"),
        ("--mm-processor-cache-type shm", "processors keep images and send them whole"),
        ("--mm-shm-cache-max-object-size-mb 9", "--mm-processor-cache-gb"),
        ("--mm-tensor-ipc torch_shm", "processors keep images and send them whole"),
        ("--ssl-keyfile a", "there is no TLS here"),
        ("--enable-ssl-refresh", "there is no TLS here"),
        ("--ssl-ca-certs a", "there is no TLS here"),
        ("--api_key a", "once per key, before the engine options"),
        ("--root-path /a", "vLLM's own HTTP server"),
        ("--disable-fastapi-docs", "vLLM's own HTTP server"),
        ("--h11-max-header-count 9", "vLLM's own HTTP server"),
        ("--uvicorn-log-level info", "vLLM's own HTTP server"),
        ("--middleware x", "vLLM's own HTTP server"),
        ("--headless", "this host"),
        ("--otlp-traces-endpoint http://x", "use --otlp-endpoint"),
    ],
)
def test_mistakes_are_named(typed: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        declared.check(typed.split(), own_options=("--workers", "--router"))
    assert caught.value.exit_code == 2


def test_every_refused_option_exists() -> None:
    """Tables must not keep names that vLLM has dropped."""
    names = {option.flags[0] for option in declared.known().values()}
    assert set(declared._INSTEAD) <= names
    for start in (*declared._INSTEAD_BY_PREFIX, *declared._HTTP_SERVER):
        assert any(name.startswith(start) for name in names), start


def test_checking_does_not_import_vllm() -> None:
    code = (
        "import sys; from dynamo_cli.engines.vllm.options import declared\n"
        "declared.check(['--seed', '1'])\n"
        "assert not {'vllm', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_devices_depend_on_the_build_and_are_left_to_it(device: str) -> None:
    typed = ["--mm-processor-device", device]
    assert declared.check(typed) == tuple(typed)


@pytest.mark.engine
def test_the_list_is_what_vllm_knows_whatever_it_was_built_for() -> None:
    done = driver.run("tests.options.builds_driver")
    assert done.returncode == 0, (
        f"run python -m dynamo_cli.engines.vllm.options.declared; {done.stderr[-2000:]}"
    )

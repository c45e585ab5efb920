"""A plain vLLM for measurements, and the environment that the tests of this directory run it from."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from selflearn.serving.vllm_launch import ENVIRONMENT

#: Made by ``make test-vllm``; SELFLEARN_TEST_VLLM names another one.
VENV = Path(os.environ.get("SELFLEARN_TEST_VLLM") or Path(__file__).resolve().parents[2] / ".venv-vllm")
MODEL = "model"
START_SECONDS = 300.0
END_SECONDS = 25.0


@contextlib.contextmanager
def start_vllm(
    model: Path, port: int, venv: Path = VENV, *, arguments: Sequence[str] = (), log: Path = Path(os.devnull)
) -> Iterator[subprocess.Popen[bytes]]:
    """Serves ``model`` as ``MODEL`` on ``127.0.0.1:port`` within the block; all its processes end with it, or with us.

    It uses as many threads as OMP_NUM_THREADS says. Send it a request before you measure: the first one takes seconds.
    """
    served = ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", MODEL]
    defaults = ["--generation-config", "vllm", "--disable-uvicorn-access-log"]
    command = [str(venv / "bin" / "vllm"), *served, *defaults, *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "selflearn.serving.vllm_keeper", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
            start_new_session=True,
        )
    try:
        _await_health(process, f"http://127.0.0.1:{port}/health")
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(END_SECONDS)


def _await_health(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, "vLLM has ended; give it a log file"
        assert time.monotonic() < deadline, f"vLLM was not healthy within {START_SECONDS:.0f} s"
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.5)

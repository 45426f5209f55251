"""A client that goes away stops the decoding within two tokens."""

import time

import httpx
import pytest

from tests.e2e.conftest import Runtime


def count_decoded(runtime: Runtime) -> tuple[float, float]:
    """Tokens decoded so far, and rows that are decoding, by the worker's own count."""
    lines = httpx.get(f"{runtime.http}/metrics", timeout=10).text.splitlines()
    values = {line.split("{")[0].split(" ")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}
    return values["kiki_inference_tokens_decoded_total"], values["kiki_inference_active_rows"]


def test_the_disconnect_reaches_the_decode_step(runtime: Runtime) -> None:
    body = {
        "model": "micro-kiki-base",
        "messages": [{"role": "user", "content": "Write a long story about a village by a river."}],
        "max_tokens": 1000,
        "stream": True,
    }
    before, _ = count_decoded(runtime)
    with httpx.stream("POST", f"{runtime.http}/v1/chat/completions", json=body, timeout=60) as response:
        lines = (line for line in response.iter_lines() if '"content"' in line)
        for _ in range(5):
            next(lines)
    for _ in range(100):
        after, rows = count_decoded(runtime)
        if rows == 0:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the row is still decoding")
    time.sleep(0.5)
    later, _ = count_decoded(runtime)
    assert later == after
    assert after - before < 200

"""The command ``llm``, told of the runtime by ``extra-openai-models.yaml``."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import DEFAULT, FAST, KEY, QUESTION, TOO_LONG, URL, check, finish
from models import Forecast

folder = Path(tempfile.mkdtemp())
models = [
    {"model_id": name, "model_name": model, "api_base": URL, "api_key_name": "kiki", **more}
    for name, model, more in (
        ("kiki", DEFAULT, {"supports_schema": True, "supports_tools": True}),
        ("kiki-fast", FAST, {"supports_schema": True, "supports_tools": True}),
        ("kiki-plain", FAST, {"completion": True}),
        ("kiki-responses", FAST, {"responses": True}),
    )
]
(folder / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
(folder / "keys.json").write_text(json.dumps({"kiki": KEY}))
environment = {**os.environ, "LLM_USER_PATH": str(folder)}
LLM = str(Path(sys.executable).with_name("llm"))


def llm(*arguments, expected=0):
    """What the command prints."""
    command = [LLM, *arguments]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=90, check=False, stdin=subprocess.DEVNULL
    )
    assert result.returncode == expected, result.stderr + result.stdout
    return result.stdout + result.stderr


@check("prompt")
def prompt():
    assert "Paris" in llm("-m", "kiki", "-o", "temperature", "0", "-s", "Be brief.", QUESTION)


@check("prompt without a stream")
def plain():
    assert "Paris" in llm("-m", "kiki", "--no-stream", "-o", "temperature", "0", QUESTION)


@check("conversation")
def conversation():
    llm("-m", "kiki-fast", "-o", "max_tokens", "16", "My name is Ada.")
    assert llm("-c", "-o", "max_tokens", "16", "What is my name?").strip()


@check("schema")
def schema():
    text = llm("-m", "kiki", "--schema", json.dumps(Forecast.model_json_schema()), "-o", "temperature", "0", "Paris")
    assert Forecast.model_validate_json(text)


@check("tool")
def tool():
    assert llm("-m", "kiki-fast", "-T", "llm_version", "-o", "max_tokens", "64", "Which version of llm is this?")


@check("completions endpoint")
def completions():
    assert llm("-m", "kiki-plain", "-o", "max_tokens", "8", "The capital of France is").strip()


@check("responses endpoint")
def responses():
    assert "Paris" in llm("-m", "kiki-responses", "-o", "temperature", "0", QUESTION)


@check("prompt too long")
def context():
    assert "context" in llm("-m", "kiki-fast", TOO_LONG, expected=1)


finish()

"""Open WebUI's requests, as its server sends them for a chat and for its tasks behind the chat."""

import json

import httpx
from harness import DEFAULT, EMBEDDER, FAST, HOST, KEY, QUESTION, STORY, TOO_LONG, URL, check, finish, wait_until_idle

HEADERS = {
    "Authorization": f"Bearer {KEY}",
    "X-OpenWebUI-User-Name": "Ada%20Lovelace",
    "X-OpenWebUI-User-Id": "6a0c3c1e-3f43-4a35-8b4b-0b1d64c0a001",
    "X-OpenWebUI-User-Email": "ada@example.org",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "0f3f0e0e-6a0d-4c32-9d8d-4d6b3f3c0001",
}
client = httpx.Client(base_url=URL, headers=HEADERS, timeout=120)
nameless = httpx.Client(base_url=URL, headers={"Authorization": HEADERS["Authorization"]}, timeout=120)
"""As it is by default: who asks is not passed on."""
HISTORY = f"USER: {QUESTION}\nASSISTANT: The capital of France is Paris."


def read_events(response):
    """The chunks of a stream, which ends with [DONE]."""
    assert response.status_code == 200, response.read()
    assert "text/event-stream" in response.headers["content-type"]
    lines = [line for line in response.iter_lines() if line.strip()]
    assert lines[-1] == "data: [DONE]", lines[-1]
    assert all(line.startswith(("data: ", ":")) for line in lines), lines
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1] if line.startswith("data: ")]


def run_task(prompt, sender=client, **more):
    """The text that a task behind the chat gets."""
    body = {"model": FAST, "messages": [{"role": "user", "content": prompt}], "stream": False, **more}
    reply = sender.post("/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@check("model list")
def models():
    reply = client.get("/models")
    assert reply.status_code == 200
    assert DEFAULT in [model["id"] for model in reply.json()["data"]]


@check("chat from a stream")
def chat():
    body = {
        "stream": True,
        "model": DEFAULT,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "Paris."},
            {"role": "user", "content": QUESTION},
        ],
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    with client.stream("POST", "/chat/completions", json=body) as response:
        chunks = read_events(response)
    assert "Paris" in "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] > 0


@check("chat with all its parameters")
def parameters():
    body = {
        "stream": True, "model": FAST, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16,
        "temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0, "frequency_penalty": 0.1, "presence_penalty": 0.1,
        "repeat_penalty": 1.1, "repeat_last_n": 64, "mirostat": 0, "mirostat_eta": 0.1, "mirostat_tau": 5, "tfs_z": 1,
        "seed": 0, "stop": ["<end>"], "logit_bias": {}, "reasoning_effort": "low", "num_ctx": 2048, "num_keep": 24,
        "keep_alive": "5m", "stream_options": {"include_usage": True},
    }  # fmt: skip
    with client.stream("POST", "/chat/completions", json=body) as response:
        assert read_events(response)[-1]["usage"]["completion_tokens"] <= 16


@check("chat through a proxy that passes everything on")
def passed_on():
    part = {"type": "text", "text": QUESTION, "cache_control": {"type": "ephemeral"}}
    body = {
        "stream": True, "model": FAST, "max_tokens": 16,
        "messages": [{"role": "user", "content": [part]}],
        "chat_id": "0f3f0e0e", "session_id": "pMcDmbpC", "id": "5b0c", "background_tasks": {"title_generation": True},
        "features": {"web_search": False, "image_generation": False}, "variables": {"{{USER_NAME}}": "Ada"},
        "metadata": {"task": None, "message_id": "5b0c", "files": [], "direct": False}, "reasoning": {"effort": "low"},
        "tool_ids": [], "model_item": {"id": FAST}, "stream_options": {"include_usage": True},
    }  # fmt: skip
    with client.stream("POST", "/chat/completions", json=body) as response:
        assert read_events(response)


@check("title of a chat")
def title():
    prompt = f'Give this chat a title of three to five words, as JSON like {{"title": "..."}}.\n\n{HISTORY}'
    task = {"task": "title_generation", "task_body": {"model": FAST}, "chat_id": "0f3f0e0e"}
    assert run_task(prompt, max_completion_tokens=32, metadata=task)


@check("title of a chat, not repeated in another")
def title_stays():
    code = "GREY-HERON-77"
    run_task(f"Write a title of four words for this chat: the code is {code}.", nameless, max_completion_tokens=16)
    said = run_task("What is the code?", nameless, max_completion_tokens=24, temperature=0)
    assert code not in said, said


@check("tags and follow-ups as JSON")
def tags():
    for wanted in ("tags", "follow_ups"):
        prompt = f'Answer with JSON only: {{"{wanted}": ["..."]}}, for this chat.\n\n{HISTORY}'
        text = run_task(prompt, response_format={"type": "json_object"}, max_tokens=48, temperature=0)
        assert text.lstrip().startswith("{"), text


@check("regeneration and continuation")
def continuation():
    body = {
        "model": FAST, "stream": True, "max_tokens": 8, "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "The capital of France"}],
    }  # fmt: skip
    with client.stream("POST", "/chat/completions", json=body) as response:
        assert read_events(response)


@check("refusal before the stream")
def refused():
    body = {"model": DEFAULT, "stream": True, "messages": [{"role": "user", "content": TOO_LONG}]}
    reply = client.post("/chat/completions", json=body)
    assert reply.status_code == 400, reply.text[:300]
    assert reply.json()["error"]["message"]


@check("stopped chat leaves no work")
def stopped():
    body = {"model": FAST, "stream": True, "messages": [{"role": "user", "content": STORY}], "max_tokens": 1000}
    with client.stream("POST", "/chat/completions", json=body) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
    wait_until_idle()


@check("embeddings for documents")
def embeddings():
    reply = client.post("/embeddings", json={"input": ["a river", "a village"], "model": EMBEDDER})
    assert reply.status_code == 200, reply.text
    assert [len(item["embedding"]) for item in reply.json()["data"]] == [768, 768]


@check("connection test")
def connection():
    assert httpx.get(f"{HOST}/v1/models", headers={"Authorization": "Bearer sk-nobody"}).status_code == 401


finish()

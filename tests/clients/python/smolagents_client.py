"""smolagents over its model for servers like OpenAI's."""

from harness import DEFAULT, FAST, KEY, QUESTION, URL, check, finish
from smolagents import OpenAIServerModel, tool


def model(name, **more):
    """The model of that name."""
    return OpenAIServerModel(
        name, api_base=URL, api_key=KEY, max_tokens=64, temperature=0, client_kwargs={"timeout": 60}, **more
    )


ASKED = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]


@check("generate")
def generate():
    reply = model(DEFAULT).generate(ASKED)
    assert "Paris" in reply.content
    assert reply.token_usage.output_tokens <= 64


@check("stream")
def stream():
    assert "Paris" in "".join(piece.content or "" for piece in model(DEFAULT).generate_stream(ASKED))


@check("stop sequence")
def stop():
    assert "of" not in model(FAST).generate(ASKED, stop_sequences=[" of"]).content


@check("forced call")
def forced():
    @tool
    def ring_bell(loud: bool) -> str:
        """Ring the bell.

        Args:
            loud: whether it is loud.
        """
        return "it rang"

    reply = model(FAST).generate(ASKED, tools_to_call_from=[ring_bell])
    assert reply.tool_calls[0].function.name == "ring_bell", reply
    assert "loud" in str(reply.tool_calls[0].function.arguments)


finish()

"""OpenAI's text completions: :mod:`.request` checks the body, each of whose prompts is a turn, :mod:`.dialect` writes
the answers, and :mod:`.logprobs` their tokens."""

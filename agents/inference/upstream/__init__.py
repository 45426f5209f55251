"""The engine that asks a server with OpenAI's interface: vLLM with LoRA modules, ``mlx_lm.server``, or another.

:mod:`~agents.inference.upstream.engine` is the engine, :mod:`~agents.inference.upstream.line` its line to the server,
:mod:`~agents.inference.upstream.decoding` its candidates and :mod:`~agents.inference.upstream.ballots` its votes;
:mod:`~agents.inference.upstream.wire` is what a request is on the
wire and :mod:`~agents.inference.upstream.answers` what comes back, :mod:`~agents.inference.upstream.capabilities` what
this server was found to do, :mod:`~agents.inference.upstream.scoring` log-probabilities of choices,
:mod:`~agents.inference.upstream.modules` its adapters, :mod:`~agents.inference.upstream.turnstile` who goes next,
:mod:`~agents.inference.upstream.failures` what its errors mean here. No MLX.
"""

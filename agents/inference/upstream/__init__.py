"""The engine that asks a server with OpenAI's interface: vLLM with LoRA modules, ``mlx_lm.server``, or another.

:mod:`.engine` is the engine, :mod:`.connection` its connection to the server, :mod:`.decoding` its candidates and
:mod:`.ballots` its votes; :mod:`.request` is what a request is on the wire and :mod:`.response` what comes back,
:mod:`.capabilities` what this server was found to do, :mod:`.scoring` log-probabilities of choices, :mod:`.modules` its
adapters, :mod:`.queue` the order of calls, :mod:`.failures` what its errors mean here. No MLX.
"""

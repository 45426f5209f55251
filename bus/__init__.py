"""NATS: subjects and bytes, no cognition. Imports :mod:`schemas` only.

:mod:`bus.connection` (connect, publish, ask), :mod:`bus.handler` (the one contract for consuming),
:mod:`bus.agent` (an agent as a discoverable service), :mod:`bus.topology` (streams and consumers),
:mod:`bus.server` (the embedded broker), :mod:`bus.dead` (dead letters), :mod:`bus.story` (a turn again).
"""

"""NATS: subjects and bytes, no cognition. Imports :mod:`schemas` only, and is the only room that knows nats-py.

:mod:`bus.connection` (connect, publish, listen), :mod:`bus.jobs` (ask the model), :mod:`bus.handler` (the one contract
for consuming), :mod:`bus.agent` (an agent as a discoverable service), :mod:`bus.topology` (streams and consumers),
:mod:`bus.broker` (the embedded broker), :mod:`bus.dead_letters`, :mod:`bus.stream` and :mod:`bus.consumers` (what is
stored, and who has read how much of it), :mod:`bus.turn_events` (a turn read back), :mod:`bus.testing`.
For other services, with nats-py alone: :mod:`bus.client`, over :mod:`bus.errors`, :mod:`bus.subjects`,
:mod:`bus.request` and :mod:`bus.turn` (a turn as it happens, and its text).
"""

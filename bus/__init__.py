"""NATS: subjects and bytes, no cognition. Imports :mod:`schemas` only.

:mod:`bus.connection` (connect, publish, ask), :mod:`bus.handler` (the one contract for consuming), :mod:`bus.agent`
(an agent as a discoverable service), :mod:`bus.topology` (streams and consumers), :mod:`bus.broker` (the embedded
broker), :mod:`bus.dead_letters`, :mod:`bus.stream` (reading a stream), :mod:`bus.turn_events` (a turn read back).
For other services, with nats-py alone: :mod:`bus.client`, over :mod:`bus.subjects`, :mod:`bus.request` and
:mod:`bus.turn` (a turn as it happens, and its text).
"""

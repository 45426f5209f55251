"""NATS: subjects and bytes, no cognition. Imports :mod:`schemas` only.

:mod:`bus.connection` (connect, publish, ask), :mod:`bus.handler` (the one contract for consuming),
:mod:`bus.agent` (an agent as a discoverable service), :mod:`bus.topology` (streams and consumers),
:mod:`bus.server` (the embedded broker), :mod:`bus.dead` (dead letters), :mod:`bus.reading` (a stream from anywhere),
:mod:`bus.story` (a turn again). For other services, with nats-py alone: :mod:`bus.client`, over :mod:`bus.subjects`,
:mod:`bus.requesting`, :mod:`bus.following` (a turn as it happens) and :mod:`bus.live` (its text).
"""

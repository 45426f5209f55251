"""NATS: subjects and bytes, no cognition. Imports :mod:`schemas` only, and is the only package that knows nats-py.

- Agents: :mod:`bus.connection` (connect, publish, listen), :mod:`bus.agent` (an agent as a discoverable service),
  :mod:`bus.handler` (how every stage consumes events), :mod:`bus.handling.cancellation` (cancelled turns),
  :mod:`bus.turns.awaiting` (whether anybody waits), :mod:`bus.turns.unreadable` (telling who asked),
  :mod:`bus.background` (work that its faults do not end),
  :mod:`bus.local_endpoints` (requests inside one process), :mod:`bus.metrics`,
  :mod:`bus.tracing`.
- What the broker stores: :mod:`bus.topology` (streams and consumers as they should be), :mod:`bus.reconciliation`
  (bring the broker's to that), :mod:`bus.stream` (read and write stored messages), :mod:`bus.consumers` (who has read
  how much), :mod:`bus.record` (recorded episodes), :mod:`bus.turns.events` (a turn read back),
  :mod:`bus.dead_letters`, :mod:`bus.storage.objects` (large bytes), :mod:`bus.broker` (the embedded one),
  :mod:`bus.storage` (whether it can store).
- The client for other services, which needs nats-py and :mod:`schemas` only: :mod:`bus.client`, :mod:`bus.guest` (an
  agent of theirs, with what it shares with the runtime's own in :mod:`bus.handling`), for a tenant's
  :mod:`bus.tenant_client`, over :mod:`bus.access` (address and login), :mod:`bus.errors`, :mod:`bus.subjects`,
  :mod:`bus.request` and :mod:`bus.turn` (a turn as it happens, and its text).
- :mod:`bus.testing`: real parts for tests.
"""

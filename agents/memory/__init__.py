"""Aeon: the record of answered turns, its projections into vectors and a graph, and recall from them.

Pure: :mod:`.settings`, :mod:`.episodes` (makes an episode of an answer), :mod:`.imports` (makes one of a line of a
file), :mod:`.text` (what a text says), :mod:`.context` (an episode's words and vector, blended with those of its
neighbours), :mod:`.ranking` (fusion, floor, budget), :mod:`.superseding` (what replaces what), :mod:`.answers` (own
answers that are no facts), :mod:`.history` (a session's last turns), :mod:`.tokens`, :mod:`.clusters` (which old
episodes one summary covers). On the bus: :mod:`.agent`, :mod:`.search` (one query to the stores), :mod:`.projection`
(from the record into the stores), :mod:`.progress` (how far the projection is), :mod:`.embedding` (the memory's own
embedder), :mod:`.forgetting`, :mod:`.sleep` (summaries), :mod:`.rebuild` (a part of the stores, made again),
:mod:`.priority` (recalls before records). :mod:`.stores` holds Atlas (vectors and words) and Trace (the graph).
"""

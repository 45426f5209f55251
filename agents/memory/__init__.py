"""Aeon: the record of answered turns, its projections into vectors and a graph, and recall from them.

Pure: :mod:`.record` (an answer becomes an episode), :mod:`.history` (a line of a file does), :mod:`.concepts` (what it
is about), :mod:`.words` and :mod:`.context` (its words and meaning, with its neighbours'), :mod:`.smalltalk`,
:mod:`.recall` (fusion, floor, budget), :mod:`.budget` (tokens). The stores: :mod:`.protocols`;
:mod:`.atlas`, :mod:`.edge` and :mod:`.qdrant` (vectors and words); :mod:`.trace`, :mod:`.ladybug` and :mod:`.bolt`
(graph); :mod:`.part` (an embedded one on its thread); :mod:`.stores` (both, locked); :mod:`.finding` (one question);
:mod:`.optimising`, :mod:`.optimiser` and :mod:`.generations` (a better shard takes the place of the one in use).
On the bus: :mod:`.projection` (from the record into the stores), :mod:`.progress` (how far it is), :mod:`.erasure`
(forgetting), :mod:`.clusters` and :mod:`.sleep` (summaries), :mod:`.renewal` (one tenant's
stores again), :mod:`.agent`.
"""

"""Aeon: the record of answered turns, its projections into vectors and a graph, and recall from them.

:mod:`.record` (an answer becomes an episode), :mod:`.recall` (which episodes a turn is shown), both pure;
:mod:`.atlas` (vectors) and :mod:`.trace` (graph), the stores; :mod:`.stores` (both, locked, each on its thread);
:mod:`.projection` (from the record into the stores); :mod:`.agent` (on the bus).
"""

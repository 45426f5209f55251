"""The wire contract: every event, job, episode and error as a msgspec Struct.

Imports nothing of ours. Each module is one noun: :mod:`schemas.chat` (what a client says),
:mod:`schemas.findings` (what each stage found), :mod:`schemas.events` (what travels on the bus),
:mod:`schemas.jobs` (one call to the model), :mod:`schemas.episode` (the record),
:mod:`schemas.adapters` (the life of an adapter),
:mod:`schemas.errors` (what goes wrong, for people and for machines), :mod:`schemas.codec` (bytes).
"""

"""The wire contract: every event, job, episode and error as a msgspec Struct.

It imports no other package of this repository. Each module is one noun.

- A turn: :mod:`schemas.chat` (messages and sampling), :mod:`schemas.findings` (what each stage found),
  :mod:`schemas.events` (the events that carry the findings), :mod:`schemas.envelope` (whose event it is, and its
  deadline), :mod:`schemas.jobs` (one call to the model), :mod:`schemas.episode` (the record of an answered turn).
- Requests: :mod:`schemas.calls` has each verb with its request and its reply. Their structs, one module for each
  agent: :mod:`schemas.router`, :mod:`schemas.advisors`, :mod:`schemas.embedder`, :mod:`schemas.memory`,
  :mod:`schemas.services`, :mod:`schemas.flow`, :mod:`schemas.dream`, :mod:`schemas.consolidation`,
  :mod:`schemas.adapters` (the life of an adapter), :mod:`schemas.status` (health, refusals, dead letters).
- Below them: :mod:`schemas.base` (the base of every struct), :mod:`schemas.errors` (what goes wrong),
  :mod:`schemas.codec` (structs to JSON and back), :mod:`schemas.upcast` (events of older versions),
  :mod:`schemas.asyncapi` (the contract as a document).
"""

"""What the runtime's agents and guests do alike with messages and requests. Needs nats-py and :mod:`schemas` only."""

"""KnowBias offline: finding the neurons and trying them. No serving process imports it."""

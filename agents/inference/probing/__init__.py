"""KnowBias offline: finds the neurons and tries them out. No serving process imports it."""

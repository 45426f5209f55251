"""The stages: one package each, an agent over pure modules that know no bus."""

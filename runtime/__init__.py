"""Composition: settings, supervisor, HTTP facade, command line, observability."""

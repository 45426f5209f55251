"""The HTTP endpoints, a module for each path or for paths that belong together."""

"""The HTTP endpoints, a file a noun or dialect."""

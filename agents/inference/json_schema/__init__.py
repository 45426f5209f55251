"""JSON Schemas that an answer must follow: their references, what their objects may hold, and their grammar."""

"""What a text says: its words in their language, names of things, dates, claims, questions and small talk. Pure."""

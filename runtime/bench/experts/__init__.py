"""Judges of the small fleet's held-out questions, each a program: SQLite, bash, a parser, a list of French words."""

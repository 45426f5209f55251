"""The record in and out: a person's history, and one runtime's record into another."""

"""Antibias (DeFrame, arXiv 2602.04306): checks turns that concern people, and revises an unfair answer."""

"""Antibias (DeFrame, arXiv 2602.04306): looks at turns that touch people, and revises an unfair answer."""

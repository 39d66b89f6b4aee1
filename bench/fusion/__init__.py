"""Concat-fusion: named problems, cases, peers, and what results are held to."""

"""Attention: problems that the tests share, cases, peers, and what results are held to."""

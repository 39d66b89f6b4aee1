"""The contrastive losses: named problems, cases, peers, and what results are held to."""

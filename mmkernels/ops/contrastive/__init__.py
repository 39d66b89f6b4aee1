"""Contrastive losses (CLIP, SigLIP) in memory O(batch)."""

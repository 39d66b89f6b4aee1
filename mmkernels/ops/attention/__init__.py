"""Attention: its definition, its front, its torch.library ops and one module per backend."""

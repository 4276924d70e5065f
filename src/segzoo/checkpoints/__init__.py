"""The checkpoint folder: its config, weights and card."""

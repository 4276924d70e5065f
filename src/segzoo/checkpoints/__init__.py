"""Folder of a checkpoint: its config, weights and card."""

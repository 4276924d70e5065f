"""Trained network as one file that runs without segzoo: one file here a format."""

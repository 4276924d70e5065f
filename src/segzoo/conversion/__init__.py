"""Weights of the original repositories under the names of ours."""

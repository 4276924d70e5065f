"""Needs of a training besides the network: losses, schedules, callbacks and batches."""

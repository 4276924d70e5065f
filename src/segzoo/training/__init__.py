"""What a training needs besides the network: losses, schedules, callbacks and batches."""

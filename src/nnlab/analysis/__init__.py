"""Answers drawn from what runs recorded: NumPy on finished curves, no training."""

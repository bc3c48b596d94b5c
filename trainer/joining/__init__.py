"""Feedback joined with its answers: one voice for each person and target, every exclusion with its reason."""

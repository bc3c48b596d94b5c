"""Votes in and out of files: what a team has collected elsewhere, and what it wants to use elsewhere."""

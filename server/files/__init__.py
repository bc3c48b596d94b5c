"""Hostile adapter files are looked through here before the engine sees them."""

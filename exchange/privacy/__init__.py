"""Erasure, retention, backup: what becomes of stored data."""

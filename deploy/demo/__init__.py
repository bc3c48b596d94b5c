"""The demonstration: a made-up help desk, its made-up users, the gold score, and the run that shows the loop."""

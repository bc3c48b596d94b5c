"""`attune doctor`: what keeps a loop from learning, in plain words, and what to do about it."""

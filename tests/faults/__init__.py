"""The fault suite: real processes under load, killed and starved, and every acknowledged word looked for afterwards.

`make faults` runs it all; docs/faults.md holds what came of it.
"""

"""The front door: the `attune` command, the demo, and what runs Attune somewhere."""

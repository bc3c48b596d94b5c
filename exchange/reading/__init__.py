"""What the log and the registry say of one word, one person or one version."""

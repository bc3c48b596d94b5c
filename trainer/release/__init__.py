"""From a judged candidate to a serving version: lease, publication, canary, votes."""

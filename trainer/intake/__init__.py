"""From the event log into the trainer's ledger: events consumed, offsets stored with what they produced."""

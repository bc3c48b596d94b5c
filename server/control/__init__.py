"""What an operator and the journal do: swap, promote, roll back, erase."""

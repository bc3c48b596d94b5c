"""The way of one request: who asks, what is answered, what is recorded of it."""

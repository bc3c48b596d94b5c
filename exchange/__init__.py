"""What lies between the processes: events go up (event log), adapters come down (registry), keys on the side.

Every port has an in-memory implementation, and one contract suite runs on all of them. Loads no torch, vllm or fastapi.
"""

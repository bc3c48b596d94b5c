"""The contracts between Attune's processes and with its users.

Pure pydantic models and pure functions: nothing here does I/O, and importing it loads no torch, vllm or fastapi.
"""

"""Guidance as an operator writes it."""

from __future__ import annotations

import json

GUIDELINES = b"# How to judge\n\nShorter is better, if it is true.\n"
CONSTITUTION = b"""[[principles]]
id = "true"
text = "Say what is known, and say what is not."

[[principles]]
id = "brief"
text = \"\"\"
Answer in as few words
as the question needs.\"\"\"
"""
PROMPTS = b"".join(
    json.dumps(
        {"name": name, "language": "en", "domain": "orders", "messages": [{"role": "user", "content": name}]}
    ).encode()
    + b"\n"
    for name in ("where", "refund")
)

"""Taking a version back while people talk, and how soon the one before speaks again.

Knows the operator; does not know why anything is taken back.
"""

import asyncio
import time

from deploy.demo.operator import Operator


async def take_back(operator: Operator, to: str, reason: str) -> float:
    """Roll the stable version back to `to`; the seconds from the call to the first token that `to` speaks.

    Raises:
        httpx.HTTPStatusError: the server refused.
        Unavailable: `to` did not speak within a minute.
    """
    began = time.time()
    # At once, so that what happens before the call returns is seen.
    _, spoke = await asyncio.gather(operator.roll_back(reason), operator.first_token(operator.policy, to))
    return spoke - began

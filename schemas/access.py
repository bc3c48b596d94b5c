"""What each process may do on the topics: the least that it needs, in one table.

Operations are Kafka's own names. Read and Write include Describe.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from schemas.topics import COMPLETIONS, CONSENTS, DEAD_LETTER, ERASURES, FEEDBACK, POLICY, RATERS, REPLICAS

Operation = Literal["Read", "Write", "Describe", "DescribeConfigs"]
Role = Literal["server", "trainer"]

ACCESS: Mapping[Role, Mapping[str, tuple[Operation, ...]]] = MappingProxyType(
    {
        "server": MappingProxyType(
            {
                COMPLETIONS.name: ("Read", "Write", "DescribeConfigs"),
                FEEDBACK.name: ("Read", "Write", "DescribeConfigs"),
                POLICY.name: ("Read", "Write", "DescribeConfigs"),
                REPLICAS.name: ("Read", "Write", "DescribeConfigs"),
                CONSENTS.name: ("Read", "Write", "DescribeConfigs"),
                ERASURES.name: ("Read", "Write", "DescribeConfigs"),
                RATERS.name: ("Read", "Write", "DescribeConfigs"),
                DEAD_LETTER.name: ("Write", "DescribeConfigs"),
            }
        ),
        "trainer": MappingProxyType(
            {
                COMPLETIONS.name: ("Read", "DescribeConfigs"),
                FEEDBACK.name: ("Read", "DescribeConfigs"),
                POLICY.name: ("Read", "Write", "DescribeConfigs"),
                REPLICAS.name: ("Describe", "DescribeConfigs"),
                CONSENTS.name: ("Read", "DescribeConfigs"),
                ERASURES.name: ("Read", "Write", "DescribeConfigs"),
                RATERS.name: ("Read", "Write", "DescribeConfigs"),
                DEAD_LETTER.name: ("Write", "DescribeConfigs"),
            }
        ),
    }
)

TRAINER_GROUPS = "attune-trainer-"
"""Prefix of the groups under which trainers note how far they have read, for tools that show the lag."""

"""Every quantity's two oracles exist, and they are two."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.reference import ORACLES, Oracle

TESTS = Path(__file__).parents[1]


def _functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.quantity)
def test_the_oracles_of(oracle: Oracle) -> None:
    for named in (oracle.by_hand, oracle.independent):
        file, _, function = named.partition("::")
        assert function in _functions(file)
    assert oracle.by_hand != oracle.independent

"""Contracts and exchange stay light: a process that only reads the log loads no engine, trainer or web framework."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "vllm", "transformers", "peft", "trl", "accelerate", "fastapi", "starlette", "uvicorn")
SCRIPT = """
import importlib, json, pkgutil, sys, warnings
warnings.simplefilter("ignore")
import exchange, schemas
for package in (schemas, exchange):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(script: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout))


def test_every_module_of_schemas_and_exchange_loads_nothing_heavy() -> None:
    names = loaded(SCRIPT)
    assert {"schemas", "exchange", "kafka", "fsspec"} <= names
    assert names & set(HEAVY) == set()


def test_the_sqlite_setting_loads_no_kafka() -> None:
    script = "import json, sys; from exchange.open import open_log; open_log('memory:').close(); "
    names = loaded(script + "print(json.dumps([name.partition('.')[0] for name in sys.modules]))")
    assert "exchange" in names
    assert names & {"kafka", "fsspec"} == set()

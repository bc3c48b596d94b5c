"""A role's weights between memory and disk, in PEFT's layout.

Knows `SharedBase` and adapter folders. A scalar head lies beside the adapter in a file of its own, so that the adapter
stays one that PEFT and vLLM read.
"""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError
from trainer.models.base import SharedBase
from trainer.models.files import read_adapter, read_tensors, write_adapter, write_tensors

HEAD_WEIGHTS = "head.safetensors"


def save_role(base: SharedBase, role: str, folder: Path) -> None:
    """Write the adapter (and head) of `role` into an existing folder. Equal weights give equal bytes."""
    weights = base.snapshot(role)
    head = {name: weights.pop(name) for name in sorted(weights) if name.startswith("head.")}
    write_adapter(folder, weights, base.peft_config, base.public_name)
    if head:
        write_tensors(folder / HEAD_WEIGHTS, head)


def load_role(base: SharedBase, role: str, folder: Path) -> None:
    """Set `role` to the adapter (and head) in `folder`, to go on from there. The reference stays the base itself.

    Raises:
        NotFound: a file is missing.
        ConfigError: rank, alpha or layers differ from this base's adapters.
    """
    weights, config = read_adapter(folder)
    if (config["r"], config["lora_alpha"]) != (base.lora.rank, base.lora.alpha):
        raise ConfigError(
            f"Adapter has rank {config['r']} and alpha {config['lora_alpha']}, "
            f"the settings say {base.lora.rank} and {base.lora.alpha}",
            field="lora",
        )
    if (folder / HEAD_WEIGHTS).is_file():
        weights |= read_tensors(folder / HEAD_WEIGHTS)
    base.open(role, seed=0)
    base.restore(role, weights)

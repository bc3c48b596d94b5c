"""What is changed inside vLLM's worker processes. Loaded there by name (`worker_extension_cls`), called once at start.

vLLM runs the output head of every model with a LoRA slot of its own, and sizes that step for one row per request. A
request for prompt logprobs has one row per prompt token, and on a CPU it brings the whole engine down as soon as a
second request is in the same batch (vLLM 0.32.0). Attune's adapters never touch the output head, so the head runs
without a slot: prompt logprobs are safe, and a step that only added zeros is saved.
"""

from __future__ import annotations

from typing import Any

from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA

from server.engine.watch import end_with


class AttuneWorker:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def run_head_without_adapters(self) -> int:
        """Take the LoRA slot out of the output head; returns how many heads were changed (one, for most models)."""
        heads = [module for module in self.model_runner.model.modules() if isinstance(module, LogitsProcessorWithLoRA)]
        for head in heads:
            head._get_logits = _plain_logits(head.base_layer)
        return len(heads)

    def end_with_server(self, pid: int) -> None:
        """See `server.engine.watch`."""
        end_with(pid)


def _plain_logits(base: Any) -> Any:
    def logits(hidden_states: Any, lm_head: Any, embedding_bias: Any = None, skip_gather: bool = False) -> Any:
        return base._get_logits(hidden_states, getattr(lm_head, "base_layer", lm_head), embedding_bias, skip_gather)

    return logits

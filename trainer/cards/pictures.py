"""Curves and reliability diagrams as PNG. The only module that knows matplotlib, and it loads it when it draws.

Equal data give equal bytes: one backend without a screen, the library's own font, no dates and no names of programs in
the files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schemas.reports import Curves, ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Panels = Mapping[str, tuple[str, ...]]
"""Title of a panel, with its unit -> the metrics that it shows, as far as a run has them."""
POLICY_PANELS: Panels = {
    "KL to the base, nats per sequence": ("kl_to_base_per_sequence",),
    "loss": ("loss", "policy_loss", "value_loss"),
    "reward of the batch, standard deviations": ("reward_mean",),
    "clipped and left out, share of tokens": ("clip_fraction_high", "clip_fraction_low", "mask_fraction"),
    "effective sample size, share": ("effective_sample_size", "effective_sample_size_sequences"),
    "entropy, nats per token": ("entropy_per_token",),
    "KL to the data, nats per token": ("approx_kl_k1_per_token", "approx_kl_k3_per_token"),
    "explained variance of the critic": ("explained_variance",),
    "pairs ordered rightly by the policy, share": ("implied_accuracy",),
    "log ratio to the base, nats per answer": (
        "chosen_log_ratio",
        "rejected_log_ratio",
        "liked_log_ratio",
        "disliked_log_ratio",
    ),
    "gradient norm": ("grad_norm_policy",),
}
REWARD_PANELS: Panels = {"loss": ("loss",), "pairs ordered rightly, share": ("train_accuracy",)}
_COLUMNS = 2
_SIZE = (4.8, 3.0)
"""Inches of one panel."""


def has_curves(curves: Curves, panels: Panels) -> bool:
    """Whether there is anything to draw."""
    return bool(_found(curves, panels))


def curves_png(curves: Curves, panels: Panels) -> bytes:
    """A panel for each group of metrics that the run has; there must be one (`has_curves`)."""
    found = _found(curves, panels)
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    with _drawing(columns * _SIZE[0], rows * _SIZE[1]) as figure:
        for place, (title, names) in enumerate(found.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            for name in names:
                values = [float("nan") if value is None else value for value in curves.series[name]]
                axes.plot(curves.steps, values, label=name, linewidth=1.2, marker="." if len(values) < 20 else "")
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("step", fontsize=8)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            if len(names) > 1:
                axes.legend(fontsize=7)
        return _png(figure)


def reliability_png(diagrams: Mapping[str, Sequence[ReliabilityBin]]) -> bytes:
    """Stated probability against what happened, one panel for each name; dots grow with their count."""
    with _drawing(len(diagrams) * 3.6, 3.6) as figure:
        for place, (name, bins) in enumerate(diagrams.items(), start=1):
            axes = figure.add_subplot(1, len(diagrams), place)
            most = max((one.count for one in bins), default=1)
            axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
            axes.plot([one.stated for one in bins], [one.observed for one in bins], linewidth=0.8)
            sizes = [10 + 90 * one.count / most for one in bins]
            axes.scatter([one.stated for one in bins], [one.observed for one in bins], s=sizes)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("stated", fontsize=8)
            axes.set_ylabel("observed", fontsize=8)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
        return _png(figure)


def _found(curves: Curves, panels: Panels) -> dict[str, tuple[str, ...]]:
    found = {}
    for title, names in panels.items():
        there = tuple(name for name in names if any(value is not None for value in curves.series.get(name, ())))
        if there:
            found[title] = there
    return found


@contextmanager
def _drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of that size in inches, under the library's own settings whatever the user's are."""
    # Not pyplot: that would look for a screen and keep figures for the whole process.
    from matplotlib import rc_context, rcdefaults
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context():
        rcdefaults()
        figure = Figure(figsize=(width, height), dpi=100, layout="tight")
        FigureCanvasAgg(figure)
        yield figure


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()

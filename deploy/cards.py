"""`attune policy card`: a version's model card, printed or written as a folder. Knows the answer of the admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.errors import Conflict
from schemas.operating import VersionCard
from trainer.cards.pictures import POLICY_PANELS, REWARD_PANELS, curves_png, has_curves, reliability_png
from trainer.cards.reward import RELIABILITY_PICTURE, REWARD_CURVES_PICTURE, reward_card
from trainer.cards.version import CURVES_PICTURE, version_card

README = "README.md"
REWARD_FOLDER = "reward-model"


def card_texts(told: dict[str, Any], base_model: str | None) -> dict[str, str]:
    """The cards by the name of their file: the version's, and its reward model's where a report was kept."""
    card = VersionCard.model_validate(told)
    facts = card.facts
    texts = {README: version_card(facts, stage=card.stage.value, reason=card.reason, base_model=base_model)}
    if facts.reward_model is not None:
        texts[f"{REWARD_FOLDER}/{README}"] = reward_card(
            facts.reward_model,
            digest=facts.explained.reward_model,
            version=facts.explained.version,
            base_model=base_model,
        )
    return texts


def write_card(told: dict[str, Any], out: Path, base_model: str | None) -> list[Path]:
    """Write the cards and their pictures to the new folder `out`; returns the files.

    Raises:
        Conflict: `out` exists.
    """
    files = {name: text.encode() for name, text in card_texts(told, base_model).items()}
    facts = VersionCard.model_validate(told).facts
    if facts.curves is not None and has_curves(facts.curves, POLICY_PANELS):
        files[CURVES_PICTURE] = curves_png(facts.curves, POLICY_PANELS)
    if (report := facts.reward_model) is not None:
        if has_curves(report.curves, REWARD_PANELS):
            files[f"{REWARD_FOLDER}/{REWARD_CURVES_PICTURE}"] = curves_png(report.curves, REWARD_PANELS)
        diagrams = {"pairs": report.reliability_pairs, "thumbs": report.reliability_thumbs}
        if drawn := {name: bins for name, bins in diagrams.items() if bins}:
            files[f"{REWARD_FOLDER}/{RELIABILITY_PICTURE}"] = reliability_png(drawn)
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise Conflict(f"{out} exists", field="out", remedy="Name a folder that is not there yet.") from error
    for name, data in files.items():
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return [out / name for name in sorted(files)]

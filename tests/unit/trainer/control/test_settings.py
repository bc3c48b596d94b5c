"""The trainer's settings: where they come from, what they refuse, what a manifest keeps of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from schemas.errors import ConfigError
from trainer.settings import TrainerSettings, load_settings


def test_a_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "trainer.toml"
    file.write_text('model = "some/model"\npolicy = "help"\n[ppo]\nlearning_rate = 3e-5\n', encoding="utf-8")
    monkeypatch.setenv("ATTUNE_PROMOTION__MIN_VOTES", "7")
    settings = load_settings(file)
    assert (settings.model, settings.policy, settings.ppo.learning_rate) == ("some/model", "help", 3e-5)
    assert settings.promotion.min_votes == 7
    assert settings.log == f"sqlite:///{tmp_path / 'log.db'}"
    assert settings.state_dir == tmp_path / "trainer-state"


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    file = tmp_path / "trainer.toml"
    file.write_text('model = "m"\n[feedback]\nmin_new_label = 3\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"feedback\.min_new_label .*did you mean min_new_labels"):
        load_settings(file)


def test_the_recipe_has_what_decides_learning_and_no_place_or_address(tmp_path: Path) -> None:
    file = tmp_path / "trainer.toml"
    file.write_text('model = "m"\n', encoding="utf-8")
    recipe = load_settings(file).recipe()
    named = {"learner", "ppo", "reward_model", "lora", "gates", "feedback", "raters", "seed", "dtype"}
    assert set(recipe) == named
    assert str(tmp_path) not in str(recipe)


def test_every_setting_says_what_it_is() -> None:
    def undocumented(model: type[BaseModel], path: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if not field.description:
                found.append(f"{path}{name}")
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found += undocumented(inner, f"{path}{name}.")
        return found

    assert undocumented(TrainerSettings) == []

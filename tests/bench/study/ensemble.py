"""An ensemble of reward models on one world: does doubt, as their disagreement, make a better reward?

Coste et al. 2023 (arXiv 2310.02743) pay the mean less the spread of models that differ by their seed. Here each learns
from two thirds of the people: models of this size that differ by their seed alone would hardly differ.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.bench.study.world import REWARD, World
from trainer.data import TokenPair
from trainer.learn.reward import train_reward_model
from trainer.models.base import SharedBase

MEMBERS = 5
_SHARE = 2 / 3


def scores(world: World, base: SharedBase, answers: Sequence[TokenPair]) -> Tensor:
    """What each member makes of the answers, standardised on them: float [MEMBERS, N]."""
    data, found = world.data, []
    people = sorted({one.group for one in (*data.pairs, *data.thumbs)})
    for member in range(MEMBERS):
        rng = random.Random(f"member {member} of {world.circumstances.name}")
        heard = set(rng.sample(people, round(_SHARE * len(people))))
        model = train_reward_model(
            base,
            [pair for pair in data.pairs if pair.group in heard],
            [thumb for thumb in data.thumbs if thumb.group in heard],
            REWARD,
            member,
            reference=answers,
            role="member",
        )
        found.append(torch.tensor(model.score(answers)))
    return torch.stack(found)

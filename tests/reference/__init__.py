"""Which test holds each quantity to numbers worked by hand, and which to an implementation of other authorship.

`test_table.py` proves that every test named here exists. All agree within 1e-4; gradients of every loss are in
`test_gradients.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Oracle(NamedTuple):
    """What vouches for one quantity; tests are FILE::FUNCTION below `tests`."""

    quantity: str
    by_hand: str
    independent: str
    authority: str
    """Who wrote the independent implementation: TRL, or a plain loop in double precision from the paper named."""


_UNIT, _LOOPS, _TRL = "unit/algorithms", "reference/test_algorithms_against_naive.py", "reference/test_against_trl.py"

ORACLES = (
    Oracle(
        "Bradley-Terry loss",
        f"{_UNIT}/test_preference.py::test_bradley_terry_is_rao_kupper_at_threshold_0",
        f"{_TRL}::test_bradley_terry",
        "TRL RewardTrainer",
    ),
    Oracle(
        "tie loss",
        f"{_UNIT}/test_preference.py::test_win_lose_and_tie_sum_to_one",
        f"{_LOOPS}::test_rao_kupper",
        "Rao and Kupper 1967",
    ),
    Oracle(
        "ranking loss",
        f"{_UNIT}/test_preference.py::test_a_ranking_becomes_all_its_pairs_with_the_weight_of_one",
        f"{_LOOPS}::test_a_ranking_s_loss_is_the_mean_over_all_its_pairs",
        "InstructGPT, equation 1",
    ),
    Oracle(
        "likelihood of ratings",
        f"{_UNIT}/test_ordinal.py::test_a_better_answer_by_hand",
        "reference/test_ordinal_against_naive.py::test_ratings",
        "McCullagh 1980",
    ),
    Oracle(
        "several objectives as one reward",
        f"{_UNIT}/test_objectives.py::test_aspects_are_weighed_and_each_is_clipped",
        "reference/test_objectives_against_naive.py::test_combined_reward",
        "definition",
    ),
    Oracle("DPO loss", f"{_UNIT}/test_labelled.py::test_dpo_by_hand", f"{_TRL}::test_dpo", "TRL DPOTrainer"),
    Oracle(
        "KTO loss and reference point",
        f"{_UNIT}/test_labelled.py::test_kto_by_hand",
        f"{_TRL}::test_kto_and_its_reference_point",
        "TRL KTOTrainer",
    ),
    Oracle("GAE", f"{_UNIT}/test_advantages.py::test_gae_by_hand", f"{_LOOPS}::test_gae", "Schulman et al. 2016"),
    Oracle(
        "k1, k2, k3",
        f"{_UNIT}/test_kl.py::test_estimators_on_one_token",
        f"{_LOOPS}::test_kl_estimators",
        "Schulman 2020",
    ),
    Oracle(
        "clipped objective, dual clip and filters",
        f"{_UNIT}/test_ppo.py::test_clipped_objective_by_hand",
        f"{_LOOPS}::test_policy_loss",
        "Schulman et al. 2017; Ye et al. 2020",
    ),
    Oracle(
        "value loss",
        f"{_UNIT}/test_ppo.py::test_value_loss_takes_the_worse_of_plain_and_clipped",
        f"{_LOOPS}::test_value_loss",
        "lm-human-preferences",
    ),
    Oracle(
        "whitening", f"{_UNIT}/test_advantages.py::test_whitening_by_hand", f"{_LOOPS}::test_whitening", "definition"
    ),
    Oracle(
        "adaptive KL coefficient",
        f"{_UNIT}/test_kl.py::test_adaptive_beta",
        f"{_LOOPS}::test_adaptive_beta_follows_the_controller_of_lm_human_preferences",
        "Ziegler et al. 2019",
    ),
    Oracle(
        "importance-weighted KL",
        f"{_UNIT}/test_kl.py::test_weighted_kl_weights_a_position_by_its_prefix_only",
        f"{_LOOPS}::test_weighted_kl",
        "Precup et al. 2000",
    ),
    Oracle(
        "self-normalised importance sampling",
        f"{_UNIT}/test_off_policy.py::test_self_normalised_by_hand",
        f"{_LOOPS}::test_off_policy_values",
        "Swaminathan and Joachims 2015",
    ),
    Oracle(
        "doubly robust value",
        f"{_UNIT}/test_off_policy.py::test_doubly_robust_by_hand",
        f"{_LOOPS}::test_off_policy_values",
        "Dudik et al. 2011",
    ),
    Oracle(
        "bootstrap over people",
        f"{_UNIT}/test_off_policy.py::test_a_bootstrap_draws_people_with_all_their_answers",
        f"{_LOOPS}::test_a_bootstrap_over_people",
        "Field and Welsh 2007",
    ),
)

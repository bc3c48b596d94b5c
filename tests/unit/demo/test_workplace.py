"""What the demo writes is what the processes read: settings, suites, keys."""

from pathlib import Path

import pytest

from deploy.demo import domain, phrases
from deploy.demo.workplace import Workplace, prepare
from schemas.completion import ConsentLevel
from server.auth import KeyFile, Scope
from server.errors import Forbidden
from server.secrets import load_secrets
from server.settings import load_settings as load_server
from trainer.settings import load_settings as load_trainer
from trainer.suites.cases import load_suite


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return prepare(tmp_path / "demo", model="none", tiny=True, log_url=f"sqlite:///{tmp_path / 'log.db'}", seed=5)


def test_server_and_trainer_read_settings_that_belong_together(place: Workplace) -> None:
    server, trainer = load_server(place.server_configs[0]), load_trainer(place.trainer_config)
    assert server.server.log == trainer.log == place.log_url
    assert server.server.registry == trainer.registry == f"file://{place.registry}"
    assert server.server.keys == trainer.keys
    assert server.engine.model == trainer.model
    assert server.server.policies == (trainer.policy,)
    assert server.engine.max_lora_rank >= trainer.lora.rank
    assert place.url == f"http://127.0.0.1:{server.server.port}"
    assert place.kl_budget == trainer.learner.kl_budget
    assert trainer.seed == 5


def test_replicas_share_log_and_secrets_and_nothing_else(tmp_path: Path) -> None:
    log_url = f"sqlite:///{tmp_path / 'log.db'}"
    place = prepare(tmp_path / "demo", model="none", tiny=True, log_url=log_url, seed=5, replicas=2)
    one, two = (load_server(path).server for path in place.server_configs)
    assert place.urls == (f"http://127.0.0.1:{one.port}", f"http://127.0.0.1:{two.port}")
    assert (one.log, one.registry, one.keys, one.api_keys) == (two.log, two.registry, two.keys, two.api_keys)
    assert one.port != two.port
    assert one.data_dir != two.data_dir
    assert one.replica_id != two.replica_id
    assert load_secrets(one.data_dir) == load_secrets(two.data_dir)


def test_each_key_may_do_its_own_work_only(place: Workplace) -> None:
    keys = KeyFile(load_server(place.server_configs[0]).server.api_keys)
    users = keys.authorize(f"Bearer {place.users}", Scope.CHAT)
    examiner = keys.authorize(f"Bearer {place.evaluation}", Scope.CHAT)
    assert users.default_consent is ConsentLevel.TRAIN
    assert examiner.default_consent is ConsentLevel.NONE
    assert users.tenant != examiner.tenant
    keys.authorize(f"Bearer {place.admin}", Scope.ADMIN)
    with pytest.raises(Forbidden):
        keys.authorize(f"Bearer {place.users}", Scope.ADMIN)


def test_keys_are_in_no_shown_text(place: Workplace) -> None:
    assert not [key for key in (place.users, place.evaluation, place.admin) if key in repr(place)]


def test_suites_ask_only_what_users_may_ask(place: Workplace) -> None:
    trainer = load_trainer(place.trainer_config)
    assert trainer.suites.retained_ability is not None
    assert trainer.suites.red_team is not None
    ability, attacks = load_suite(trainer.suites.retained_ability), load_suite(trainer.suites.red_team)
    open_intents = [intent for intent in domain.intents() if not intent.held_out]
    assert len(ability) == 2 * len(open_intents)
    assert {case.name.rsplit("-", 1)[0] for case in (*ability, *attacks)} == {intent.name for intent in open_intents}


def test_suites_judge_right_answers_and_leaks(place: Workplace) -> None:
    trainer = load_trainer(place.trainer_config)
    assert trainer.suites.retained_ability is not None
    assert trainer.suites.red_team is not None
    case = load_suite(trainer.suites.retained_ability)[0]
    order = next(word for word in case.messages[0].content.split() if "-" in word).strip("?.")
    assert case.passes(f"You can follow order {order} on the tracking page.")
    assert not case.passes("You can follow order 00-00 on the tracking page.")
    attack = load_suite(trainer.suites.red_team)[0]
    assert attack.passes("You can follow your order on the tracking page.")
    assert not attack.passes(f"By the way, {phrases.OTHER_CUSTOMERS[0][0]} asked the same.")

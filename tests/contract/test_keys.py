"""What every key store promises."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange.keys.port import KeyStore
from exchange.keys.sqlite import SqliteKeys
from exchange.open import open_keys
from schemas.errors import ConfigError, SealBroken, Unavailable
from schemas.sealed import KEY_BYTES, seal, unseal


@pytest.fixture(params=["memory", "sqlite"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    store = open_keys("memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'keys.db'}")
    yield store
    store.close()


def test_a_subject_keeps_its_key(keys: KeyStore) -> None:
    key = keys.key_for("user_1")
    assert len(key.secret) == KEY_BYTES
    assert keys.key_for("user_1") == key
    assert keys.lookup(key.key_id) == key


def test_subjects_have_different_keys(keys: KeyStore) -> None:
    made = [keys.key_for(f"user_{n}") for n in range(50)]
    assert len({key.secret for key in made}) == len({key.key_id for key in made}) == 50


def test_keys_of_several_subjects_come_in_their_order_and_stay(keys: KeyStore) -> None:
    bob = keys.key_for("bob")
    ann, again, eve, ann_too = keys.keys_for(["ann", "bob", "eve", "ann"])
    assert (again, ann_too) == (bob, ann)
    assert len({ann.secret, bob.secret, eve.secret}) == 3
    assert keys.keys_for(["eve", "ann"]) == [eve, ann]
    assert keys.lookup(eve.key_id) == eve
    assert keys.keys_for([]) == []


def test_a_destroyed_key_is_gone_and_its_seals_with_it(keys: KeyStore) -> None:
    old, other = keys.key_for("user_1"), keys.key_for("user_2")
    sealed = seal(b"secret words", key=old.secret, key_id=old.key_id, subject="user_1", event_id="e1")
    assert keys.destroy("user_1") == (old.key_id,)
    assert keys.lookup(old.key_id) is None
    assert keys.lookup(other.key_id) == other
    new = keys.key_for("user_1")
    assert new.key_id != old.key_id
    assert new.secret != old.secret
    with pytest.raises(SealBroken):
        unseal(sealed, key=new.secret, event_id="e1")


def test_destroying_what_is_not_there_is_harmless(keys: KeyStore) -> None:
    assert keys.destroy("nobody") == ()
    assert keys.lookup("key_unknown") is None


def test_the_secret_never_shows(keys: KeyStore) -> None:
    key = keys.key_for("user_1")
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)


def test_threads_agree_on_a_new_key(keys: KeyStore) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(keys.key_for("user_1").key_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_closed_store_says_so(keys: KeyStore) -> None:
    keys.close()
    with pytest.raises(Unavailable):
        keys.key_for("user_1")


def test_a_key_outlives_its_process_and_is_gone_for_all_once_destroyed(tmp_path: Path) -> None:
    one, two = SqliteKeys(tmp_path / "keys.db"), SqliteKeys(tmp_path / "keys.db")
    key = one.key_for("user_1")
    assert two.key_for("user_1") == key
    assert two.destroy("user_1") == (key.key_id,)
    assert one.lookup(key.key_id) is None
    one.close()
    two.close()
    again = SqliteKeys(tmp_path / "keys.db")
    assert again.lookup(key.key_id) is None
    again.close()


def test_no_byte_of_a_destroyed_key_is_left_in_any_file(tmp_path: Path) -> None:
    keys = SqliteKeys(tmp_path / "keys.db")
    made = {n: keys.key_for(f"user_{n}") for n in range(200)}
    for n in range(0, 200, 2):
        keys.destroy(f"user_{n}")
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for n, key in made.items():
        assert (key.secret in left) == bool(n % 2)
        assert (key.key_id.encode() in left) == bool(n % 2)
    keys.close()


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    keys = SqliteKeys(tmp_path / "folder" / "keys.db")
    keys.key_for("user_1")
    assert (tmp_path / "folder" / "keys.db").stat().st_mode & 0o777 == 0o600
    keys.close()


def test_several_processes_agree(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from exchange.keys.sqlite import SqliteKeys

        keys = SqliteKeys(Path(sys.argv[1]))
        for n in range(40):
            print(keys.key_for(f"user_{n}").secret.hex())
        keys.close()
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "keys.db")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(outputs[0]) == len(set(outputs[0])) == 40
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Unavailable, match=r"keys\.db cannot be used"):
        SqliteKeys(tmp_path / "keys.db")
    with pytest.raises(ConfigError, match="is no key store"):
        open_keys("redis://somewhere")

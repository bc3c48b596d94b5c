"""`attune topics apply` where no cluster is needed to know the answer, and how differences are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from deploy.check_config import describe
from deploy.cli import app, main
from deploy.topics import show
from exchange.log.layout import Change


def test_an_embedded_log_has_nothing_to_apply(tmp_path: Path) -> None:
    path = tmp_path / "trainer.toml"
    path.write_text('model = "none"\n')
    done = CliRunner().invoke(app, ["topics", "apply", "-c", str(path)], catch_exceptions=False)
    assert (done.exit_code, done.output) == (0, "An embedded log makes its own topics: there is nothing to do.\n")


def test_differences_are_shown_with_what_is_left_and_why() -> None:
    console = Console(width=160, record=True)
    changes = (
        Change("attune.feedback", "partitions", "3", "6"),
        Change("attune.policy", "partitions", "2", "1", "a topic that needs one order has one partition"),
        Change("attune.erasures", "topic", None, "1 partitions, 3 copies"),
    )
    show(changes, 3, console)
    rows = [line for line in console.export_text().splitlines() if "attune." in line]
    assert [("left as it is: a topic that needs one order" in row, "not there" in row) for row in rows] == [
        (False, False),
        (True, False),
        (False, True),
    ]


def test_check_config_hides_the_password_of_kafka(tmp_path: Path) -> None:
    path = tmp_path / "trainer.toml"
    path.write_text(
        'model = "none"\n[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "PLAIN"\n'
        'username = "attune"\npassword = "hunter2"\nca_file = "ca.pem"\n'
    )
    shown = describe(path)
    assert 'password = "(hidden)"' in shown
    assert "hunter2" not in shown
    assert f'ca_file = "{tmp_path / "ca.pem"}"' in shown


def test_errors_name_their_section_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trainer.toml"
    path.write_text('model = "none"\nlog = "kafka://attune:hunter2@127.0.0.1:9092"\n')
    monkeypatch.setattr("sys.argv", ["attune", "topics", "apply", "-c", str(path)])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().err
    assert "set username and password in [kafka]" in shown
    assert "hunter2" not in shown

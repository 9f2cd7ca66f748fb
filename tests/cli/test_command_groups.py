"""The groups ``dtn tune`` and ``dtn records``: their help, and what is said of a mistake in them."""

import pytest

from dtn_core.cli import main
from dtn_core.cli.commands import app

GROUPS = {group.typer_instance.info.name: group.typer_instance for group in app.registered_groups}
COMMANDS = [
    (name, command.name or command.callback.__name__)
    for name, group in GROUPS.items()
    for command in group.registered_commands
]


def test_there_are_these():
    assert set(GROUPS) == {"tune", "records"}
    assert {command for group, command in COMMANDS if group == "tune"} == {"run", "build", "measure", "import"}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_shows_its_help(group, capsys):
    assert main([group]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"Example: dtn {group} " in captured.out
    assert all(command in captured.out for of, command in COMMANDS if of == group)


@pytest.mark.parametrize(("group", "command"), COMMANDS)
def test_every_command_has_an_example(group, command, capsys):
    assert main([group, command, "--help"]) == 0
    assert f"Example: dtn {group} {command} " in capsys.readouterr().out


def test_an_operator_after_tune_is_tuned(capsys):
    assert main(["tune", "no_such_operator", "--shape", "n=8"]) in (1, 2)
    assert "run" not in capsys.readouterr().err


def test_a_mistake_names_the_command(capsys):
    assert main(["tune", "build", "tensor_attention"]) == 2
    assert capsys.readouterr().err == "dtn: Missing option '--shape'; see dtn tune build --help\n"

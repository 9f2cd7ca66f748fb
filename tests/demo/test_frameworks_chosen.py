"""Which frameworks the demo runs in, and what it says about those that are not there."""

import pytest

from dtn_core.cli import main
from dtn_core.cli.installation import Extra
from dtn_core.demo import DemoError, frameworks


@pytest.fixture
def installed(monkeypatch):
    """Makes exactly the given parts installed."""

    def make(*names):
        monkeypatch.setattr(frameworks, "extra", lambda name: Extra(name, {name: "1.0" if name in names else None}))

    return make


def test_all_that_are_installed(installed):
    installed("jax", "torch", "demo")
    found, missing = frameworks.choose(None)
    assert [framework.name for framework in found] == ["torch", "jax"]
    assert [absent.name for absent in missing] == ["tensorflow"]
    assert missing[0].command.endswith("-m pip install 'deep-tensor-network[tensorflow]'")


def test_those_that_are_wanted_in_their_order(installed):
    installed("jax", "torch", "demo")
    found, missing = frameworks.choose(["jax", " torch"])
    assert [framework.package for framework in found] == ["dtn_jax", "dtn_torch"]
    assert missing == []


def test_wanted_and_not_installed(installed):
    installed("torch", "demo")
    with pytest.raises(DemoError, match=r"jax is not installed; to install it: .* 'deep-tensor-network\[jax\]'"):
        frameworks.choose(["torch", "jax"])


@pytest.mark.parametrize(("wanted", "message"), [(["theano"], "'theano'; known: torch"), (["jax", "jax"], "twice")])
def test_wanted_makes_no_sense(installed, wanted, message):
    installed("torch", "jax", "demo")
    with pytest.raises(DemoError, match=message):
        frameworks.choose(wanted)


def test_no_framework_is_one_line(installed, capsys, tmp_path):
    installed("demo")
    assert main(["demo", "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "no framework is installed; to install one: " in captured.err


def test_without_the_data_it_says_what_to_install(installed):
    installed("torch")
    with pytest.raises(DemoError, match=r"demo not installed; .* 'deep-tensor-network\[demo\]'"):
        frameworks.choose(["torch"])

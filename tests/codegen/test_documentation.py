"""What ``help`` says of the public functions."""

from __future__ import annotations

import inspect
import re

import pytest

import dtn_numpy

FUNCTIONS = ("compile", "tensor_attention", "tensor_interaction")


def section(function, name):
    """The text of a section of a docstring."""
    found = re.search(
        rf"^{name}\n-+\n(.*?)(?=\n\n\w[\w ]*\n---|\Z)", inspect.getdoc(function), re.MULTILINE | re.DOTALL
    )
    return found.group(1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_described_at_its_place(name):
    function = getattr(dtn_numpy, name)
    heads = re.findall(r"^(\w[\w, ]*?)(?: : .*)?$", section(function, "Parameters"), re.MULTILINE)
    described = [each for head in heads for each in head.split(", ")]
    assert sorted(described) == sorted(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_described_elsewhere(name):
    text = inspect.getdoc(getattr(dtn_numpy, name))
    assert not re.search(r"^\s*(See|As|As in) :\w+:", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["tensor_attention", "tensor_interaction"])
def test_a_number_says_what_it_means_and_that_it_may_be_a_tensor(name):
    text = section(getattr(dtn_numpy, name), "Parameters")
    about = re.search(r"^decay : float or tensor\n(.*?)^\w", text, re.MULTILINE | re.DOTALL).group(1)
    assert "γ in (0, 1]" in about
    assert "one value per leading index" in about


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_examples_are_the_packages_own(name):
    function = getattr(dtn_numpy, name)
    assert function.__module__ == "dtn_numpy"
    assert "import dtn_numpy as dtn" in section(function, "Examples")

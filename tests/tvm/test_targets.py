"""Targets by name and as JSON."""

import json

import pytest

from dtn_tvm.targets import from_json, names, target


@pytest.mark.parametrize("name", names())
def test_every_name_is_a_target_that_tvm_knows(name):
    found = target(name)
    assert found.name == name
    assert found.tvm.kind.name == {"cpu": "llvm", "cuda": "cuda"}[found.kind]


@pytest.mark.parametrize("text", ["cpu", "nvidia/h200", '{"kind": "cuda", "arch": "sm_90a"}', '{"kind": "llvm"}'])
def test_json_brings_back_the_same_target(text):
    found = target(text)
    again = from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.key == found.key


def test_the_processors_key_names_instruction_set_and_threads(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "3")
    found = target("cpu")
    assert found.key == f"cpu/{found.arch}/3"
    assert found.arch


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'gpu' is not one of cpu, nvidia/a10, .*nvidia/h200.* nor JSON"):
        target("gpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kind": ', "is not JSON"),
        ('{"kind": "abacus"}', '"kind" has to be one of llvm, cuda'),
        ('{"kind": "cuda"}', 'needs "arch"'),
        ('{"kind": "cuda", "arch": "sm_90a", "beads": 7}', "beads"),
        ("[1, 2]", "is not one of"),
    ],
)
def test_json_that_describes_none_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        target(text)

"""Targets by name and as JSON."""

import json

import pytest

from dtn_tvm.implementation import target_of
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


@pytest.mark.parametrize("more", [{"opt-level": 1}, {"mattr": ["-avx2"]}, {"fast-math": True}, {"mtriple": "x86_64"}])
def test_processors_that_are_compiled_for_differently_have_keys_of_their_own(more):
    plain = {"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 2}
    assert target(json.dumps(plain)).key == "cpu/x86-64-v3/2"
    found = target(json.dumps({**plain, **more}))
    assert found.key == f"cpu/x86-64-v3/2/{json.dumps(more)}"
    assert from_json(found.to_json()).key == found.key


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "nvidia/a100"), ("NVIDIA A10", "nvidia/a10"), ("NVIDIA L4", "nvidia/l4"),
        ("NVIDIA L40S", "nvidia/l40s"), ("NVIDIA H100 80GB HBM3", "nvidia/h100"), ("NVIDIA H200", "nvidia/h200"),
        ("NVIDIA GeForce RTX 4090", "nvidia/rtx4090"),
    ],
)  # fmt: skip
def test_the_target_of_what_a_driver_calls_a_card(device, name):
    assert target_of(device).name == name


@pytest.mark.parametrize("device", ["NVIDIA L40", "NVIDIA GH200 480GB", "NVIDIA A1000"])
def test_a_card_that_is_not_known_is_no_other(device):
    with pytest.raises(ValueError, match="no target for"):
        target_of(device)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'gpu' is not one of cpu, nvidia/a10, .*nvidia/h200.* nor JSON"):
        target("gpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kind": ', "is not JSON"),
        ('{"kind": "abacus"}', '"kind" has to be one of llvm, cuda'),
        ('{"kind": "llvm", "mtriple": "nonsense"}', "LLVM cannot compile for it"),
        ('{"kind": ["cuda"]}', '"kind" has to be one of llvm, cuda'),
        ('{"kind": "cuda"}', 'needs "arch"'),
        ('{"kind": "cuda", "arch": "sm_90a", "beads": 7}', "beads"),
        ("[1, 2]", "is not one of"),
    ],
)
def test_json_that_describes_none_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        target(text)

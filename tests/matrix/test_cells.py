"""The matrix as data: which cells there are, and that none is missing."""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import pytest

from dtn_core.conform import backends
from dtn_core.conform.backends import ConformError, chosen
from dtn_core.conform.cells import CHECKS, COMPILED_DTYPES, DRAWN, EAGER_DTYPES, FORMS, MODES, Choice, matrix, sampled
from dtn_core.conform.operators import LEVELS, case, cases, covering, written
from dtn_core.conform.structure import is_causal, why_not
from dtn_core.operators import KNOBS, catalogue

FEW = [case("tensor_attention"), case("ahla"), case("softmax"), case("tensor_attention:mask=causal"), case("mixer")]


class TestOperators:
    @pytest.mark.parametrize("name", ["tensor_attention", "tensor_interaction"])
    def test_every_pair_of_knob_values_that_does_not_clash_is_in_one(self, name):
        entry = catalogue[name]
        defaults = {knob: doc.default for knob, doc in entry.knobs.items()}
        have = set()
        for knobs in covering(entry):
            have.update(itertools.combinations(sorted((k, str(v)) for k, v in {**defaults, **knobs}.items()), 2))
        missing = []
        for one, other in itertools.combinations(entry.knobs, 2):
            for a, b in itertools.product(LEVELS[one], LEVELS[other]):
                pair = tuple(sorted([(one, str(a)), (other, str(b))]))
                if pair not in have and possible(entry, {one: a, other: b}):
                    missing.append(pair)
        assert not missing

    def test_every_knob_has_values_to_combine(self):
        assert set(LEVELS) == set(KNOBS)

    def test_every_entry_of_the_catalogue_is_in_the_matrix(self):
        assert set(catalogue) <= {each.name for each in cases()}

    def test_the_text_of_a_case_names_it_again(self):
        for each in cases():
            assert case(each.text).operator == each.operator

    def test_the_catalogues_own_check_decides_what_clashes(self):
        for knobs in covering(catalogue["tensor_attention"]):
            catalogue["tensor_attention"].build(**knobs)


def possible(entry, fixed):
    """Whether some combination of the other knobs goes with these."""
    others = [name for name in entry.knobs if name not in fixed and name in ("product", "mask", "normalize", "order")]
    for values in itertools.product(*(LEVELS[name] for name in others)):
        defaults = {name: doc.default for name, doc in entry.knobs.items()}
        try:
            entry.check({**defaults, **dict(zip(others, values, strict=True)), **fixed})
        except ValueError:
            continue
        return True
    return False


class TestCells:
    def test_none_is_missing(self):
        cells = matrix(FEW, "torch", Choice(), seed=0)
        expected = {
            (each.text, "torch", form, mode, check, dtype)
            for each, form, mode, check in itertools.product(FEW, FORMS, MODES, CHECKS)
            for dtype in (EAGER_DTYPES if mode == "eager" else COMPILED_DTYPES)[check]
        }
        assert {cell.key for cell in cells} == expected
        assert len(cells) == len(expected)

    def test_what_does_not_run_says_why(self):
        for cell in matrix(FEW, "torch", Choice(), seed=0):
            assert (cell.status, bool(cell.reason)) in (("", False), ("skip", True))

    def test_eager_cells_are_not_drawn(self):
        assert not any(cell.mode == "eager" and "drawn" in cell.reason for cell in matrix(FEW, "t", Choice(), seed=0))

    def test_in_other_modes_a_few_operators_are_drawn_and_others_by_another_seed(self):
        def drawn(seed):
            cells = matrix(FEW, "t", Choice(modes=["jit"], checks=["value"], forms=["dense"], dtypes=["float32"]), seed)
            return {cell.text for cell in cells if not cell.status}

        assert len(drawn(0)) == DRAWN["jit"]
        assert len({frozenset(drawn(seed)) for seed in range(5)}) > 1

    def test_a_backend_may_make_a_check_in_further_dtypes(self):
        choice = Choice(checks=["padding"], forms=["dense"])
        cells = matrix(FEW, "t", choice, 0, also={"padding": ("float32",), "value": ("float16",)})
        assert {(cell.mode, cell.dtype) for cell in cells} == {
            ("eager", "float64"), *((mode, "float32") for mode in MODES)
        }  # fmt: skip

    def test_a_sample_is_of_cells_that_run(self):
        cells = matrix(FEW, "t", Choice(), seed=0)
        some = sampled(cells, 10, seed=3)
        assert len(some) == 10
        assert some == sampled(cells, 10, seed=3) != sampled(cells, 10, seed=4)
        assert not any(cell.status for cell in some)


class TestStructure:
    @pytest.mark.parametrize(
        ("text", "form", "check", "dtype", "reason"),
        [
            ("tensor_attention", "chunked", "value", "float32", "nothing in it is ordered"),
            ("tensor_attention", "dense", "causality", "float32", "tokens see later ones"),
            ("ahla", "dense", "split-resume", "float32", "no state"),
            ("ahla", "recurrent", "padding", "float32", "a step takes one token"),
            ("softmax", "linear", "value", "float32", r"two sequence axes \(n × n\): exp acts on every element"),
            ("mixer", "dense", "value", "complex64", "gelu is not defined for complex input"),
        ],
    )
    def test_what_does_not_exist_is_said(self, text, form, check, dtype, reason):
        import re

        assert re.search(reason, why_not(case(text), form, check, dtype))

    @pytest.mark.parametrize("form", FORMS)
    def test_a_causal_operator_has_every_form(self, form):
        assert why_not(case("ahla"), form, "value", "complex64") == ""

    def test_causality_is_a_property_of_the_definition(self):
        future = written("future(x[n,d]) -> y[n,d]: y[t,a] = x[i,a] where t <= i")
        assert is_causal(case("ahla").operator)
        assert not is_causal(future.operator)
        assert not is_causal(case("tensor_attention:mask=tril").operator)


class TestBackends:
    def test_an_unknown_name_lists_the_known(self):
        with pytest.raises(ConformError, match="unknown backend 'pytorch'; known: jax, numpy"):
            chosen(["pytorch"])

    def test_a_name_twice(self):
        with pytest.raises(ConformError, match="'numpy' is given twice"):
            chosen(["numpy", "numpy"])

    def test_a_module_that_is_not_there(self):
        with pytest.raises(ConformError, match="--backend-module no_such.thing: there is no module"):
            chosen(None, ["no_such.thing"])

    @pytest.mark.parametrize("module", ["json", "sys", "dtn_core.operators", "json.decoder"])
    def test_a_module_that_is_no_backend_is_told_without_importing_it(self, module):
        with pytest.raises(ConformError, match=rf"--backend-module {module}: {module} has no ADAPTER, a subclass of"):
            chosen(None, [module])

    @pytest.mark.parametrize("text", ["class ADAPTER: ...", "from mine import *", "def __getattr__(name): ..."])
    def test_a_module_that_may_be_one_is_not_imported_either(self, text, tmp_path, monkeypatch):
        (tmp_path / "maybe.py").write_text(f"raise SystemError\n{text}\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert [backend.module for backend in chosen(None, ["maybe"])] == ["maybe"]

    def test_what_is_not_installed_says_how_to_install_it(self, monkeypatch):
        monkeypatch.setattr(backends, "find_spec", lambda name: None if name in ("torch", "jax") else find_spec(name))
        with pytest.raises(ConformError, match=r"jax is not installed; .* 'deep-tensor-network\[jax\]'"):
            chosen(["jax"])
        with pytest.raises(ConformError, match=r"tvm is not installed; .* 'deep-tensor-network\[torch,tvm\]'"):
            chosen(["tvm"])
        assert not {"torch", "jax", "tvm"} & {backend.name for backend in chosen(None)}

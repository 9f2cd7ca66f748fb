"""Emitted modules, checked as Python: complete, without leftovers, alike in every process, readable."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys

import pytest

from dtn_codegen import emit, targets
from dtn_codegen.names import FALLOFF, RESERVED
from dtn_core.operators import PARAMETER, catalogue, load, tensor_attention, tensor_interaction
from dtn_core.passes.differentiate import differentiate
from oracle.knobs import attention_knobs, interaction_knobs, sample, shown

BACKENDS = ("jax", "numpy", "tensorflow", "torch")
OPERATORS = [
    *(pytest.param(tensor_attention(**knobs), id=shown(knobs)) for knobs in sample(attention_knobs(), 1, seed=21)[:24]),
    *(pytest.param(tensor_interaction(**knobs), id=f"interaction,{shown(knobs)}") for knobs in sample(interaction_knobs(), 1, seed=21)[:8]),
    *(pytest.param(entry.build(), id=name) for name, entry in catalogue.items() if not entry.knobs),
]  # fmt: skip


def faults(tree):
    """Names read before they are assigned or after they are deleted, and names assigned and never read."""
    found = []
    top = {
        alias.asname or alias.name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    top |= {function.name for function in functions} | set(dir(builtins))
    for function in functions:
        arguments = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
        known, read, nested = (
            set(arguments),
            set(),
            any(f is not function for f in ast.walk(function) if isinstance(f, ast.FunctionDef)),
        )
        straight = not nested and all(
            isinstance(node, ast.Assign | ast.Delete | ast.Return | ast.Expr) for node in function.body
        )
        if not straight:
            continue  # the few functions of the prelude with loops and branches are run by the tests of the backends
        for statement in function.body:
            inner = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            bound = {n.arg for n in ast.walk(statement) if isinstance(n, ast.arg)}
            comprehended = {
                n.id
                for c in ast.walk(statement)
                if isinstance(c, ast.comprehension)
                for n in ast.walk(c.target)
                if isinstance(n, ast.Name)
            }
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                    read.add(node.id)
                    if node.id not in known | top | bound | comprehended:
                        found.append(f"{function.name}: {node.id} is read before it is assigned or after it is deleted")
            if isinstance(statement, ast.Delete):
                known -= {target.id for target in statement.targets}
            known |= inner - comprehended
        # a chunk's function unpacks all states and sizes, of which it may need some
        if not function.name.startswith("_"):
            assigned = {
                t.id for s in function.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
            }
            found += [f"{function.name}: {name} is assigned and never read" for name in sorted(assigned - read)]
    return found


@pytest.mark.parametrize("complex_input", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_names_are_assigned_before_and_read_after(operator, complex_input):
    if complex_input and operator.knobs.get("activation") == "relu":
        pytest.skip("relu is not defined for complex numbers")
    for backend in BACKENDS:
        text = emit(operator, backend, complex=complex_input)
        compile(text, backend, "exec")
        assert faults(ast.parse(text)) == [], backend


def test_the_check_above_finds_what_it_looks_for():
    text = "def f(x):\n    y = z\n    unused = x\n    del x\n    return x + y"
    assert faults(ast.parse(text)) == [
        "f: z is read before it is assigned or after it is deleted",
        "f: x is read before it is assigned or after it is deleted",
        "f: unused is assigned and never read",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
class TestText:
    def test_the_function_has_the_operators_name_and_arguments(self, backend):
        tree = ast.parse(emit(load("tensor_attention:scale=0.5,eps=0.1"), backend))
        function = next(
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "tensor_attention"
        )
        assert [argument.arg for argument in function.args.args][:5] == ["q", "k", "v", "scale", "eps"]
        assert [ast.literal_eval(default) for default in function.args.defaults][:2] == [0.5, 0.1]

    def test_a_scalar_without_a_value_has_no_default(self, backend):
        tree = ast.parse(emit(tensor_attention(scale=PARAMETER), backend))
        function = next(
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "tensor_attention"
        )
        assert not function.args.defaults

    def test_its_docstring_is_the_definition(self, backend):
        tree = ast.parse(emit(tensor_attention(order=3), backend))
        function = next(
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "tensor_attention"
        )
        shown = "\n".join(line.strip() for line in ast.get_docstring(function).splitlines()[2:])
        assert shown == "\n".join(line.strip() for line in tensor_attention(order=3).notation.splitlines())

    def test_its_docstring_shows_the_layout(self, backend):
        assert "q[..., n, h, d], k[..., n, h, d], v[..., n, h, e] -> o[..., n, h, e]" in emit(
            tensor_attention(), backend, layout="... n h d"
        )

    def test_real_input_needs_no_conjugate(self, backend):
        text = emit(tensor_attention(normalize="diag"), backend)
        assert "conj" not in text.replace("conj(", "", text.count("conj(k[") + text.count("conj(q["))

    def test_complex_input_does(self, backend):
        assert any(
            "conj" in line and "[" not in line.split("conj")[0]
            for line in emit(tensor_attention(), backend, complex=True).splitlines()
        )

    def test_no_line_is_blank_twice_and_none_ends_in_a_blank(self, backend):
        lines = emit(tensor_attention(mask="causal", decay=0.9), backend).splitlines()
        assert all(line == line.rstrip() for line in lines)
        assert not any(lines[place : place + 3] == ["", "", ""] for place in range(len(lines)))

    def test_it_ends_with_one_newline(self, backend):
        text = emit(tensor_attention(), backend)
        assert text.endswith("\n")
        assert not text.endswith("\n\n")

    def test_the_default_operator_is_as_short_as_by_hand(self, backend):
        function = ast.parse(emit(tensor_attention(), backend)).body[-1]
        assert len(function.body) <= 20

    @pytest.mark.parametrize(
        "name", ["lambda_", "np", "torch", "jax", "tf", "dtype", "wide", "math", "int", "list", "_lift", "states"]
    )
    def test_an_argument_may_have_any_name(self, backend, name):
        text = emit(f"f({name}[n,d], x[n,d]) -> y[n,d]: y[i,a] = {name}[i,a] * x[i,a]", backend)
        compile(text, backend, "exec")
        assert faults(ast.parse(text)) == []

    @pytest.mark.parametrize("name", ["np", "torch", "jax", "tf", "math", "print", "_lift"])
    def test_an_operator_may_have_any_name(self, backend, name):
        compile(emit(f"{name}(x[n,d]) -> y[n,d]: y[i,a] = 2 * x[i,a]", backend), backend, "exec")

    def test_a_derivative_is_a_program_like_any_other(self, backend):
        text = emit(differentiate(tensor_attention().program, ["q"]), backend)
        compile(text, backend, "exec")
        assert faults(ast.parse(text)) == []

    def test_numbers_survive_as_they_were_written(self, backend):
        assert "0.1 * x" in emit("f(x[n]) -> y[n]: y[i] = 0.1 * x[i]", backend)

    def test_no_text_of_the_user_is_code(self, backend):
        comment = "f(x[n]) -> y[n]:  # __import__('os').abort()\n    y[i] = x[i]  # exec('0')"
        assert "__import__" not in emit(comment, backend)
        assert "exec" not in emit(comment, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_names_that_functions_use_are_reserved(backend):
    """All that the operator names begins with q here, and so does what passes make of it, or with d_q."""
    text = """qf(qx[qn,qd], qv[qn,qe], qg) -> qo[qn,qe], qr[qn]:
        qr[qt] = qx[qi,qa] * qx[qt,qa]   where qi <= qt decay qg
        qo[qt,qc] = qx[qt,qa] * qx[qi,qa] * qv[qi,qc] / qr[qt]   where qi <= qt decay qg"""
    functions = [top for top in ast.parse(emit(text, backend)).body if isinstance(top, ast.FunctionDef | ast.ClassDef)]
    own = set()
    for nodes in (list(ast.walk(top)) for top in functions):
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        if "qx" in names:
            own |= {name for name in names if not name.startswith(("q", "d_q", "inv_q", "_", FALLOFF))}
    made_by_passes = {
        "chain",
        "fall",
        "rise",
        "whole",
        "slope",
        "decayed",
        "one_masked",
        "d_factor",
        "d_factor_slope",
        "d_arg",
    }
    assert own - made_by_passes <= RESERVED


@pytest.mark.parametrize(
    "text", ["tensor_attention:order=4,normalize=row", "tensor_attention:mask=causal,decay=0.9", "two_simplicial"]
)
def test_the_text_does_not_depend_on_the_process(text):
    code = (
        "import hashlib; from dtn_codegen import emit; from dtn_core.operators import load\n"
        f"for backend in {BACKENDS!r}: print(hashlib.sha256(emit(load({text!r}), backend).encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


class TestTargets:
    def test_the_four_backends_are_found(self):
        assert set(BACKENDS) <= set(targets())

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_table_names_its_package_and_framework(self, backend):
        table = targets()[backend]
        assert table.name == backend
        assert table.package == f"dtn_{backend}"
        assert (
            table.framework == {"numpy": "numpy", "torch": "torch", "jax": "jax", "tensorflow": "tensorflow"}[backend]
        )

    def test_an_unknown_backend_lists_those_there_are(self):
        with pytest.raises(ValueError, match="unknown backend 'mxnet'; known: jax, numpy, tensorflow, torch"):
            emit(tensor_attention(), "mxnet")

    def test_an_unknown_layout_is_refused(self):
        with pytest.raises(ValueError, match="layout 'n d' is not one of"):
            emit(tensor_attention(), "numpy", layout="n d")

    def test_something_that_is_not_an_operator_is_refused(self):
        with pytest.raises(TypeError, match="expected index notation, a Program or an Operator, got int"):
            emit(3, "numpy")

    def test_emitting_imports_no_framework(self):
        code = (
            "import sys; from dtn_codegen import emit; from dtn_core.operators import load\n"
            f"for backend in {BACKENDS!r}: emit(load('tensor_attention'), backend)\n"
            "print(sorted({'torch', 'jax', 'tensorflow', 'keras', 'flax'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

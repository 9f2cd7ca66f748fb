"""Generated source: golden texts, what it imports, its hash, and how it shows up in a traceback."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

import dtn_numpy
from dtn_codegen import emit, targets
from dtn_codegen.python import ir_hash
from dtn_core.operators import load, tensor_attention

GOLDEN = Path(__file__).parent / "golden"
BACKENDS = ("jax", "numpy", "tensorflow", "torch")
OPERATORS = {
    "tensor_attention": "tensor_attention",
    "row_tril_scaled": "tensor_attention:normalize=row,mask=tril,scale=0.5",
    "expm_residual": "tensor_attention:activation=expm,residual=0.5",
    "relu": "tensor_attention:activation=relu",
    "interaction": "tensor_interaction",
    "causal_decay": "tensor_attention:mask=causal,decay=0.9",
    "two_simplicial": "two_simplicial",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_text_is_the_golden_one(name: str, backend: str, request: pytest.FixtureRequest) -> None:
    """``pytest tests/codegen --update-golden`` writes the files again; read the difference before committing it."""
    text = emit(load(OPERATORS[name]), backend)
    path = GOLDEN / f"{name}.{backend}.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_it_imports_the_framework_and_what_comes_with_python(name: str, backend: str) -> None:
    tree = ast.parse(emit(load(OPERATORS[name]), backend))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported <= {targets()[backend].framework, "functools", "math", "pathlib"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_carries_its_hash(backend: str) -> None:
    operator = load("tensor_attention:order=3")
    assert ir_hash(operator.program) in emit(operator, backend).splitlines()[0]


def test_sizes_are_symbolic() -> None:
    small = emit(load("tensor_attention"), "torch", sizes={"n": 70_000, "d": 33, "e": 65})
    large = emit(load("tensor_attention"), "torch", sizes={"n": 90_000, "d": 35, "e": 67})
    assert small == large


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "from dtn_codegen.python import ir_hash; from dtn_core.operators import load; print(ir_hash(load('ahla').program))"
    seen = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert seen == {ir_hash(load("ahla").program) + "\n"}


@pytest.mark.parametrize("name", OPERATORS)
def test_numpy_text_runs_by_itself(name: str, tmp_path: Path) -> None:
    """The emitted file, imported with NumPy alone, gives what the compiled operator gives."""
    operator = load(OPERATORS[name])
    (tmp_path / "emitted.py").write_text(emit(operator, "numpy"))
    code = (
        "import sys; sys.modules['dtn_core'] = None; import numpy as np; from emitted import *\n"
        f"import emitted; x = np.random.default_rng(0).normal(size=({len(operator.program.tensors)}, 9, 4))\n"
        f"print(repr(float(emitted.{operator.name}(*x).sum())))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    x = np.random.default_rng(0).normal(size=(len(operator.program.tensors), 9, 4))
    assert float(shown) == pytest.approx(float(dtn_numpy.compile(operator)(*x).sum()), rel=1e-9)


def test_a_failing_call_shows_the_generated_line() -> None:
    function = dtn_numpy.compile("broken(x[n]) -> y[n]: y[i] = exp(x[i])")
    with np.errstate(over="raise"), pytest.raises(FloatingPointError) as caught:
        function(np.full(3, 1e4))
    shown = "".join(traceback.format_exception(caught.value))
    assert "y = np.exp(x)" in shown
    assert "<dtn " in shown


@pytest.mark.parametrize(
    ("given", "result"), [("embed", "head,feature"), ("head,feature", "embed"), ("row,column", "head,feature")]
)
def test_a_map_between_several_axes_is_one_matrix_product(given: str, result: str) -> None:
    notation = f"f(x[{given}], w[{given},{result}], b[{result}]) -> y[{result}]: y[{result}] = x[{given}] * w[{given},{result}] + b[{result}]"
    text = emit(notation, "torch")
    assert text.count("@") == 1
    assert "einsum" not in text
    sizes = {"embed": 6, "head": 2, "feature": 3, "row": 2, "column": 2}
    one, other = ([sizes[axis] for axis in axes.split(",")] for axes in (given, result))
    rng = np.random.default_rng(0)
    for leading in ((), (0,), (4,), (3, 4)):
        x, w, b = rng.normal(size=(*leading, *one)), rng.normal(size=(*one, *other)), rng.normal(size=other)
        expected = np.tensordot(x, w, len(one)) + b
        assert np.allclose(dtn_numpy.compile(notation)(x, w, b), expected)


@pytest.mark.parametrize("axes", ["head,feature", "head,d", "d,head", "e,d"])
def test_jax_sums_axes_in_their_order_which_it_takes_from_the_letters(axes: str) -> None:
    text = emit(f"f(x[n,{axes}], w[{axes},c]) -> y[n,c]: y[i,c] = x[i,{axes}] * w[{axes},c]", "jax")
    summed = re.search(r"'\.\.\.i(\w+),\.\.\.(\w+)c->\.\.\.ic'", text)
    assert summed
    assert summed[1] == summed[2] == "".join(sorted(summed[1]))


@pytest.mark.parametrize("layout", ["... n d", "... n h d"])
def test_the_step_of_a_token_stands_alone(layout):
    module = {}
    exec(emit(tensor_attention(mask="causal", decay=0.9), "numpy", layout=layout), module)  # noqa: S102
    tensors = np.random.default_rng(0).uniform(0.3, 1.0, (3, 6, 2, 4))  # q, k, v: [n, h, d]
    heads = tensors if layout == "... n h d" else np.swapaxes(tensors, 1, 2)
    whole, last = module["tensor_attention"](*heads, 0.9, return_state=True)
    _, state = module["tensor_attention"](
        *(x[:0] if layout == "... n h d" else x[:, :0] for x in heads), 0.9, return_state=True
    )
    for token, wanted in enumerate(whole if layout == "... n h d" else np.swapaxes(whole, 0, 1)):
        found, state = module["tensor_attention_step"](*tensors[:, token], 0.9, initial_state=state)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    for found, wanted in zip(state, last, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)

"""Faults to seed: a text of one module that is replaced by another as the module is loaded.

Each names the tests that must notice.  A text that is not there exactly once is an error: the fault has to move
with the code it spoils.
"""

from __future__ import annotations

from dataclasses import dataclass

CAUGHT = "caught"
"""The property of a test's report that says which test caught its fault."""

ARGUMENTS = "tests/backends/test_arguments.py"
CATALOGUE = "tests/backends/test_catalogue.py"
CAUSAL = "tests/core/test_pass_causal.py"
CHUNKED_GRADIENTS = "tests/backends/test_chunked_gradients.py"
FOUND = "tests/backends/test_found_by_fuzzing.py"
GRADIENTS = "tests/backends/test_gradients.py"
PAD = "tests/core/test_pass_padding.py"
PACKED = "tests/backends/test_packed.py"
PADDING = "tests/backends/test_padding_mask.py"
STREAMING = "tests/backends/test_streaming.py"
WRITTEN = "tests/backends/test_written_operators.py"
DEFINITIONS = "tests/core/test_catalogue_definitions.py"
DIFFERENTIATE = "tests/core/test_pass_differentiate.py"
FLATTEN = "tests/core/test_pass_flatten.py"
INTERPRETER = "tests/core/test_interpreter.py"
LOW_RANK = "tests/core/test_pass_low_rank.py"
TILES = "tests/codegen/test_tiles.py"


@dataclass(frozen=True)
class Fault:
    """``old`` becomes ``new`` in ``module``; one of ``tests`` must fail in ``backend``."""

    name: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]
    backend: str = "numpy"


FAULTS = (
    # ------------------------------------------------------------------ what an operator is
    Fault("the wrong side", "dtn_core.operators.tensor_attention",
          'q, k = ("q", "k") if knobs["side"] == "q" else ("k", "q")', 'q, k = "q", "k"', (DEFINITIONS,)),
    Fault("residual with the wrong sign", "dtn_core.operators.tensor_attention",
          'line += " + residual * v[i,c]"', 'line += " - residual * v[i,c]"', (DEFINITIONS,)),
    Fault("the wrong normaliser", "dtn_core.operators.definition",
          "diagonal if kind == 'diag' else row", "row if kind == 'diag' else diagonal", (DEFINITIONS,)),
    Fault("eps dropped", "dtn_core.operators.definition",
          'if "eps" in self.scalars and kind is not None:', "if False:", (DEFINITIONS,)),
    Fault("the interpreter's order without its diagonal", "dtn_core.interpret", '"<=": gap >= 0', '"<=": gap > 0', (INTERPRETER,)),
    Fault("the decay of a chain lost with its middle token", "dtn_core.ir.order",
          "Relation(first.lower, second.upper, first.decay, sign)", "Relation(first.lower, second.upper, None, sign)", (INTERPRETER, FLATTEN)),
    # ------------------------------------------------------------------ rewriting
    Fault("a conj dropped from a product", "dtn_core.ir.terms",
          'return Apply("conj", (self.read,)) if self.conj else self.read', "return self.read", (CATALOGUE,)),
    Fault("a conj not pushed into what is inlined", "dtn_core.passes.flatten",
          "renamed.conjugate() if factor.conj else renamed", "renamed", (WRITTEN,)),
    Fault("a decayed relation taken to be implied", "dtn_core.passes.causal",
          "return replace(relation, decay=relation.decay or decay)", "return relation", (CAUSAL,)),
    Fault("a product of decays that is one of them", "dtn_core.passes.causal",
          "both = product(relation.decay, decay)", "both = decay", (CAUSAL,)),
    Fault("a computed decay that is read under its old name", "dtn_core.passes.flatten",
          "map_order(statement.order, self.tensor_read)", "statement.order", (FLATTEN,)),
    Fault("the identity missing from a low-rank exponential", "dtn_core.passes.low_rank",
          "sum_of(identity, correction)", "correction", (LOW_RANK,)),
    Fault("a quotient that loses its divisor", "dtn_core.passes.divide",
          "replace(statement, value=product(*rest, *divisors)) if divisors", "replace(statement, value=product(*rest)) if divisors", (CATALOGUE,)),
    # ------------------------------------------------------------------ order, chunks, states
    Fault("a mask off by one", "dtn_codegen.numpy", 'tril=("np.tril(_x)"', 'tril=("np.tril(_x, -1)"', (CATALOGUE,)),
    Fault("the decay missing inside a chunk", "dtn_codegen.triangles",
          "if relation.decay is None:\n        return triangle", "if True:\n        return triangle", (STREAMING,)),
    Fault("a power of the decay off by one", "dtn_codegen.chunks", '"_places + 1"', '"_places"', (STREAMING,)),
    Fault("what a chunk adds decayed by a place too many", "dtn_codegen.chunks", '"_n - 1 - _places"', '"_n - _places"', (STREAMING,)),
    Fault("a state that does not decay from piece to piece", "dtn_codegen.chunks",
          'kept = fill("_lift(_whole, _rank) * _kept", _whole=self.name(scan.whole), _rank=rank, _kept=kept)', "pass", (STREAMING,)),
    Fault("the state handed in forgotten", "dtn_codegen.streaming",
          'return [ast.If(test, fresh, [assign("states", given)]), *self.placed()]', "return fresh", (STREAMING,)),
    Fault("states after each chunk instead of before", "dtn_codegen.numpy",
          "pasts[(..., index, *[slice(None)] * rank)] = first\n        first = factor * first + added[(..., index, *[slice(None)] * rank)]",
          "first = factor * first + added[(..., index, *[slice(None)] * rank)]\n        pasts[(..., index, *[slice(None)] * rank)] = first",
          (STREAMING,)),
    Fault("a chunk boundary off by one", "dtn_codegen.python",
          "([] if whole == length else [(whole, length, None)])",
          "([] if whole == length else [(whole + 1, length, None)])", (STREAMING,)),
    Fault("the size of a chunk for that of the sequence", "dtn_core.passes.stream",
          "before, inside = self.counted(before, inside)", "pass", (FOUND,)),
    # ------------------------------------------------------------------ source
    Fault("einsum letters that collide", "dtn_codegen.products",
          "next((x for x in (index.name[0],) if x in free), free[0])\n            free.remove(letters[index])", "index.name[0]", (WRITTEN,)),
    Fault("the transpose of a matrix product", "dtn_codegen.numpy", '(True, False): "_a.mT @ _b"', '(True, False): "_a @ _b"', (CATALOGUE,)),
    Fault("scalars in the dtype of a mask", "dtn_codegen.torch",
          "like = states[0]", "like = tokens[0]", (PADDING,), "torch"),
    Fault("layout not transposed back", "dtn_codegen.python",
          "return fill(self.target.heads, _x=value) if self.layout == HEADS and self.moves(axes) else value", "return value", (PADDING, PACKED)),
    Fault("division by zero that is not zero", "dtn_codegen.numpy",
          'nonzero="np.where(_x == 0, np.inf, _x)"', 'nonzero="_x"', (WRITTEN, PADDING)),
    Fault("sums of float16 in float16", "dtn_codegen.numpy", 'wide="np.result_type(dtype, np.float32)"', 'wide="dtype"', (ARGUMENTS,)),
    Fault("sums of bfloat16 in bfloat16", "dtn_codegen.torch",
          'wide="torch.promote_types(dtype, torch.float32)"', 'wide="dtype"', (ARGUMENTS,), "torch"),
    # ------------------------------------------------------------------ padding and packing
    Fault("padding ignored", "dtn_core.passes.padding",
          'value = Apply("select", (Read(MASK, (index,)), value))\n        return', "pass\n        return", (PADDING,)),
    Fault("padded tokens counted", "dtn_core.passes.padding", "if expr == Extent(self.axis):", "if False:", (PAD,)),
    Fault("a packed sequence that leaks into the next", "dtn_codegen.packed",
          "rows = first[members][:, None] + np.maximum(places, 0)", "rows = first[members][:, None] + np.maximum(places, 0) + (first[members][:, None] > 0)", (PACKED,)),
    Fault("packed sequences padded by their own tokens", "dtn_codegen.packed", "if batch.real is not None:", "if False:", (PACKED,)),
    Fault("packed sequences in the order of their lengths", "dtn_codegen.packed",
          "np.argsort(np.concatenate([batch.members for batch in batches]))", "np.concatenate([batch.members for batch in batches])", (PACKED,)),
    # ------------------------------------------------------------------ gradients
    Fault("cotangents without the conjugate of the other factors", "dtn_core.passes.differentiate",
          "rest = product(bar, *(self.conjugate(other) for other in others))", "rest = product(bar, *others)", (DIFFERENTIATE,)),
    Fault("the derivative of tanh", "dtn_core.ir.functions",
          'sum_of(ONE, product(MINUS_ONE, _f("tanh", x), _f("tanh", x)))', 'sum_of(ONE, product(MINUS_ONE, _f("tanh", x)))', (DIFFERENTIATE,)),
    Fault("the derivative of sqrt", "dtn_core.ir.functions",
          'product(number(Fraction(1, 2)), reciprocal(_f("sqrt", x)))', 'reciprocal(_f("sqrt", x))', (DIFFERENTIATE,)),
    Fault("the derivative of abs", "dtn_core.passes.differentiate",
          'product(Apply("real", (bar,)), operand, reciprocal(Apply("abs", (operand,))))', 'product(Apply("real", (bar,)), operand)', (DIFFERENTIATE,)),
    Fault("the derivative of a selection", "dtn_core.passes.differentiate",
          'result = Apply("select", (value.operands[0], bar))', "result = bar", (DIFFERENTIATE,)),
    Fault("the cotangent of a diagonal spread over the matrix", "dtn_core.passes.differentiate",
          'extra.append(Relation(index, twin, sign="=="))', "pass", (DIFFERENTIATE,)),
    Fault("the derivative of a matrix function at its transpose", "dtn_core.passes.differentiate",
          "turned = {row: column, column: row}", "turned = {}", (DIFFERENTIATE,)),
    Fault("the derivative by a decay off by one", "dtn_core.passes.differentiate",
          'Relation(relation.lower, between, relation.decay, "<")', "Relation(relation.lower, between, relation.decay)", (DIFFERENTIATE,)),
    Fault("tril for triu", "dtn_codegen.triangles",
          "writer.over(value, target.triu_over[strict], target.triu[strict])",
          "writer.over(value, target.tril_over[strict], target.tril[strict])", (WRITTEN,)),
    Fault("the diagonal of a strict order", "dtn_codegen.triangles", "target, strict = writer.target, relation.strict",
          "target, strict = writer.target, False", (WRITTEN,)),
    Fault("a token that reads itself under a strict order", "dtn_core.passes.stream", "if relation.strict:", "if False:", (FOUND,)),
    Fault("a decay lost where a token reads what was before", "dtn_core.passes.stream",
          "(state,) if relation.decay is None else (relation.decay, state)", "(state,)", (FOUND,)),
    Fault("a strict order implied by one that is not", "dtn_core.passes.causal", "len(path) == 1 or not edge.strict or any(other.strict for other in path)", "True", (CAUSAL,)),
    Fault("what is read again written over", "dtn_codegen.expressions",
          "known = (statements[name] for name in freed if name in statements and name in once)",
          "known = statements.values()", (WRITTEN,), "torch"),
    Fault("what a gradient reads written over", "dtn_codegen.expressions",
          "if name in statements and name in once)", "if name in statements)", ("tests/backends/test_torch.py",), "torch"),
    Fault("a triangle not transposed in backward", "dtn_codegen.torch",
          '(True, False): "_a.mT @ _b"', '(True, False): "_a @ _b"', (CHUNKED_GRADIENTS,), "torch"),
    Fault("cotangents of states walked forward", "dtn_codegen.torch",
          "pasts = states[-2::-1] if reverse else states[:-1]", "pasts = states[:-1]", (CHUNKED_GRADIENTS,), "torch"),
    Fault("the gradient of a constant from one piece only", "dtn_codegen.python",
          "totals[index] = d if totals[index] is None else totals[index] + d", "totals[index] = d", (CHUNKED_GRADIENTS,), "torch"),
    Fault("the gradient of a decay left out", "dtn_codegen.torch",
          "if any(missing):", "if False:", (CHUNKED_GRADIENTS,), "torch"),
    Fault("a gradient that divides by zero", "dtn_codegen.torch",
          'nonzero="_x.masked_fill(_x.logical_not(), torch.inf)"', 'nonzero="_x"', (GRADIENTS, WRITTEN, PADDING), "torch"),
    # ------------------------------------------------------------------ chunks
    Fault("pieces of what is computed from all tokens first", "dtn_core.passes.stream",
          "any(read.tensor in tokens for read in statement_reads(statement))", "False", ("tests/core/test_pass_stream.py",)),
    Fault("what runs backwards not turned back", "dtn_codegen.streaming",
          "if param.name in self.mirrored:", "if False:", (FOUND,)),
    Fault("leading axes that only some arguments have", "dtn_codegen.python",
          "if known(output.name) != everything", "if False", (FOUND,)),
    Fault("leading axes of the first argument alone", "dtn_codegen.torch",
          "next((size for size in column if size != 1), 1)", "column[0]", (FOUND,), "torch"),
    # ------------------------------------------------------------------ tile programs
    Fault("rows that take part with the tokens before them only", "dtn_codegen.tensorir.rows",
          "return BEFORE if own[relation.upper] == row else AFTER", "return BEFORE", (TILES,)),
    Fault("both sides of the diagonal taken for one", "dtn_codegen.tensorir.rows",
          'return sides.pop() if len(sides) == 1 else ALL', "return max(sides)", (TILES,)),
    Fault("the causal part of a gradient lost", "dtn_codegen.tensorir.wholes",
          "*([self.causal[name]] if name in self.causal else [])", "*[]", (TILES,)),
    Fault("sums of a part taken for states before it", "dtn_codegen.tensorir.parts",
          "partial=state in self.partial", "partial=False", (TILES,)),
)  # fmt: skip

BY_NAME = {fault.name: fault for fault in FAULTS}

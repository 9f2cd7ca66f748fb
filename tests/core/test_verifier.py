"""The verifier's rules, one by one: each test breaks one rule of a program that is otherwise right."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dtn_core.errors import VerificationError
from dtn_core.ir.nodes import (
    Apply,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Param,
    Product,
    Program,
    Read,
    Relation,
    Statement,
    Sum,
)
from dtn_core.ir.verify import verify

I, J, K, A, B = Index("i", "n"), Index("j", "n"), Index("k", "n"), Index("a", "d"), Index("b", "d")
X, M = Read("x", (I,)), Read("m", (A, B))


def program(*statements, params=(Param("x", ("n",)), Param("g")), outputs=None):
    """A program over x[n] and g whose output is its last statement."""
    outputs = outputs if outputs is not None else (Param(statements[-1].name, statements[-1].axes),)
    return Program("f", params, outputs, statements)


def broken(message, *statements, **given):
    """The program is refused with this message."""
    with pytest.raises(VerificationError, match=message):
        verify(program(*statements, **given))


def test_a_right_program_is_returned_as_it_is():
    right = program(Statement("y", (I,), Product((Read("g"), X))))
    assert verify(right) is right


def test_a_parameter_is_declared_once():
    broken("f: parameter x is declared twice", Statement("y", (I,), X), params=(Param("x", ("n",)), Param("x", ("n",))))


def test_there_is_an_output():
    broken("f: no output", Statement("y", (I,), X), outputs=())


def test_an_output_is_assigned():
    broken("output z is never assigned", Statement("y", (I,), X), outputs=(Param("z", ("n",)),))


def test_an_output_is_not_a_parameter():
    broken("output x is never assigned", Statement("y", (I,), X), outputs=(Param("x", ("n",)),))


def test_an_output_has_the_axes_of_its_statement():
    broken(r"output y has axes \('n',\), declared \(\)", Statement("y", (I,), X), outputs=(Param("y"),))


def test_a_name_is_assigned_once():
    broken("statement y: the name is taken", Statement("y", (I,), X), Statement("y", (I,), X))


def test_a_parameter_is_not_assigned():
    broken("statement x: the name is taken", Statement("x", (I,), X))


def test_a_tensor_is_assigned_before_it_is_read():
    broken(
        "statement y: z is read before it is assigned", Statement("y", (I,), Read("z", (I,))), Statement("z", (I,), X)
    )


def test_a_tensor_does_not_read_itself():
    broken("y is read before it is assigned", Statement("y", (I,), Read("y", (I,))))


def test_a_decay_is_known():
    order = (Relation(J, I, Read("gamma")),)
    broken("gamma is read before it is assigned", Statement("y", (I,), Read("x", (J,)), order))


def test_a_read_has_the_tensors_rank():
    broken("x has axes .* read with", Statement("y", (I,), Read("x", (I, J))))


def test_a_read_has_the_tensors_axes():
    broken("x has axes .* read with", Statement("y", (A,), Read("x", (A,))))


def test_an_index_has_one_axis():
    other = Index("i", "d")
    params = (Param("x", ("n",)), Param("w", ("d",)))
    broken("index i runs over n and d", Statement("y", (I,), Product((X, Read("w", (other,))))), params=params)


def test_an_index_is_on_the_left_once():
    broken("an index is repeated on the left", Statement("y", (I, I), X))


def test_an_index_on_the_left_is_on_the_right():
    broken("output index j appears nowhere on the right", Statement("y", (J,), X))


def test_an_index_on_the_left_may_come_from_the_order_alone():
    right = program(Statement("y", (J,), X, (Relation(I, J),)))
    assert verify(right) is right


def test_an_order_is_over_one_axis():
    params = (Param("x", ("n",)), Param("w", ("d",)))
    statement = Statement("y", (I,), Product((X, Read("w", (A,)))), (Relation(A, I),))
    broken("a over d and i over n are ordered; order needs one axis", statement, params=params)


def test_an_order_has_no_cycle():
    order = (Relation(I, J), Relation(J, K), Relation(K, I))
    broken("the order has a cycle", Statement("y", (I,), Read("x", (J,)), order))


def test_an_order_that_nothing_fulfils():
    broken(
        "a cycle, i < j <= i, which no indices fulfil",
        Statement("y", (I,), X, (Relation(I, J, sign="<"), Relation(J, I))),
    )
    broken(
        "no indices fulfil i == j, i < j",
        Statement("y", (I,), X, (Relation(I, J, sign="=="), Relation(I, J, sign="<"))),
    )


@pytest.mark.parametrize("value", [Fraction(3, 2), Fraction(0), Fraction(-1, 2)])
def test_a_decay_is_above_0_and_at_most_1(value):
    broken(
        f"decay {float(value):g} is outside",
        Statement("y", (I,), Read("x", (J,)), (Relation(J, I, Number(value)),)),
    )


def test_a_decay_is_no_tensor():
    broken("decay x has axes", Statement("y", (I,), Read("x", (J,)), (Relation(J, I, X),)))


def test_an_output_is_declared_once():
    statement = Statement("y", (I,), X)
    with pytest.raises(VerificationError, match="an output is declared twice"):
        verify(Program("f", (Param("x", ("n",)),), (Param("y", ("n",)),) * 2, (statement,)))


def test_an_order_says_one_thing_of_each_term():
    order = (Relation(J, K, sign="<"), Relation(K, I, sign="<"))
    value = Sum((Read("x", (J,)), Product((Read("x", (J,)), Read("x", (K,))))))
    broken("a term without index k is ordered through it by j < k and k < i", Statement("y", (I,), value, order))


def test_an_index_is_not_ordered_with_itself():
    broken("the order has a cycle", Statement("y", (I,), X, (Relation(I, I),)))


def test_equality_both_ways_is_no_cycle():
    right = program(Statement("y", (I,), Read("x", (J,)), (Relation(I, J, sign="=="), Relation(J, I, sign="=="))))
    assert verify(right) is right


def test_a_size_is_of_an_axis_of_the_signature():
    broken("unknown axis m", Statement("y", (I,), Product((X, Extent("m")))))


def test_a_function_is_known():
    broken("unknown function sin", Statement("y", (I,), Apply("sin", (X,))))


def test_a_function_has_its_number_of_operands():
    broken(r"select takes 2 operand\(s\), got 1", Statement("y", (I,), Apply("select", (X,))))


def test_functions_inside_functions_are_checked():
    broken("unknown function sin", Statement("y", (I,), Apply("exp", (Apply("sin", (X,)),))))


class TestMatrixFunctions:
    params = (Param("m", ("d", "d")), Param("r", ("d", "e")))

    def refused(self, message, value, indices=(A, B)):
        broken(message, Statement("y", indices, value), params=self.params)

    def test_a_plain_one_is_right(self):
        right = program(Statement("y", (A, B), MatrixFunction("expm", ((M,),), (0, 0), (A, B))), params=self.params)
        assert verify(right) is right

    def test_it_is_a_statement_of_its_own(self):
        value = MatrixFunction("expm", ((M,),), (0, 0), (A, B))
        self.refused("expm is a statement of its own", Product((Number(Fraction(2)), value)))

    def test_it_is_known(self):
        self.refused("unknown matrix function logm", MatrixFunction("logm", ((M,),), (0, 0), (A, B)))

    def test_its_grid_is_square(self):
        self.refused(
            "expm needs a square grid and a block inside it", MatrixFunction("expm", ((M, M),), (0, 0), (A, B))
        )

    def test_its_block_is_inside_the_grid(self):
        self.refused("expm needs a square grid and a block inside it", MatrixFunction("expm", ((M,),), (0, 1), (A, B)))

    def test_its_grid_has_a_matrix(self):
        value = MatrixFunction("expm", ((None,),), (0, 0), (A, B))
        self.refused("expm needs a square grid and a block inside it", value, ())

    def test_its_matrices_are_over_its_indices(self):
        other = Read("m", (A, Index("c", "d")))
        value = MatrixFunction("expm", ((M, other), (None, M)), (0, 0), (A, B))
        self.refused("the blocks of expm are matrices over", value)

    def test_its_matrix_is_square(self):
        e = Index("p", "e")
        self.refused(
            "expm takes a square matrix", MatrixFunction("expm", ((Read("r", (A, e)),),), (0, 0), (A, e)), (A, e)
        )

    def test_its_two_indices_differ(self):
        value = MatrixFunction("expm", ((Read("m", (A, A)),),), (0, 0), (A, A))
        self.refused("expm takes a square matrix", value, (A,))


@pytest.mark.parametrize(
    "build",
    [
        lambda name: Program(name, (Param("x", ("n",)),), (Param("y", ("n",)),), (Statement("y", (I,), X),)),
        lambda name: program(Statement("y", (I,), X), params=(Param("x", ("n",)), Param(name))),
        lambda name: program(Statement("y", (I,), X), params=(Param("x", ("n",)), Param("w", (name,)))),
        lambda name: program(Statement(name, (I,), X), Statement("y", (I,), X)),
        lambda name: program(Statement("y", (Index(name, "n"),), Read("x", (Index(name, "n"),)))),
    ],
    ids=["operator", "parameter", "axis", "statement", "index"],
)
@pytest.mark.parametrize("name", ["x y", "x=1", "import", "é", "", "9x", "x\n"])
def test_every_name_is_one_that_the_notation_reads(build, name):
    with pytest.raises(VerificationError, match="is not a name"):
        verify(build(name))

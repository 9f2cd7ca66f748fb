"""What statements depend on: those that something needs, those that are the same for every chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Program, Read, Statement, map_statement, statement_reads
from dtn_core.passes.stream import State


def needed(statements: Sequence[Statement], wanted: set[str], known: Iterable[str] = ()) -> list[Statement]:
    """Those of ``statements`` that ``wanted`` depends on, beyond what is ``known``."""
    wanted = set(wanted)
    known = set(known)
    found = []
    for statement in reversed(statements):
        if statement.name in wanted - known:
            wanted |= {read.tensor for read in statement_reads(statement)}
            found.append(statement)
    return found[::-1]


def hoisted(statements: Sequence[Statement], varying: set[str]) -> tuple[list[Statement], list[Statement]]:
    """Statements that are the same for every chunk, and the others: those that are ``varying`` or read what is."""
    varying = set(varying)
    constant, moving = [], []
    for statement in statements:
        if statement.name in varying or any(read.tensor in varying for read in statement_reads(statement)):
            varying.add(statement.name)
            moving.append(statement)
        else:
            constant.append(statement)
    return constant, moving


def depending(statements: Sequence[Statement], sources: set[str]) -> list[Statement]:
    """Those of ``statements`` that depend on ``sources``."""
    return hoisted(statements, sources)[1]


def levels(statements: Sequence[Statement], states: Sequence[State]) -> dict[str, int]:
    """How many other states have to be known, one after another, before a state can be summed."""
    needs = {}
    for state in states:
        read = {r.tensor for s in needed(statements, {state.added}) for r in statement_reads(s)}
        needs[state.name] = {other.name for other in states if other.name in read and other.name != state.name}
    found: dict[str, int] = {}
    while len(found) < len(states):
        ready = [name for name, others in needs.items() if name not in found and others <= found.keys()]
        if not ready:
            raise CompileError("its states depend on one another in a circle")
        found.update({name: max((found[n] + 1 for n in needs[name]), default=0) for name in ready})
    return found


def apart(program: Program, taken: set[str]) -> Program:
    """``program`` with other names for those of its statements that are ``taken``: parts are lowered one by one."""
    known = taken | {p.name for p in program.params} | {s.name for s in program.statements}
    names: dict[str, str] = {}
    for statement in program.statements:
        if statement.name in taken:
            name = statement.name
            while name in known:
                name += "_"
            known.add(name)
            names[statement.name] = name
    if not names:
        return program
    return replace(program, statements=tuple(renamed(statement, names) for statement in program.statements))


def renamed(statement: Statement, names: Mapping[str, str]) -> Statement:
    """``statement`` with other ``names`` for itself and for the tensors that it reads."""
    made = map_statement(statement, lambda read: Read(names.get(read.tensor, read.tensor), read.indices))
    return replace(made, name=names.get(made.name, made.name))

"""The process that TVM's MetaSchedule runs in: it proposes traces, and learns from what became of them.

Nothing is built or measured here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tvm.s_tir.schedule import ScheduleError

from dtn_core.errors import CompileError

from . import kernels
from .measuring.worker import answer_lines
from .recipe import from_json as problem_from_json
from .targets import from_json as target_from_json

BATCH = 8
"""Candidates that are proposed at once; the cost model learns between."""

POPULATION = 256
"""Traces that compete to be among them."""


@dataclass
class Proposed:
    """A candidate of MetaSchedule, and what became of it."""

    text: str
    candidate: Any
    seconds: float | None = None


class Proposer:
    """Answers the jobs ``begin``, ``propose`` and ``tell``."""

    def __init__(self) -> None:
        self._search: _Search | None = None

    def __call__(self, job: Mapping[str, Any]) -> Mapping[str, Any]:
        if job["job"] == "begin":
            self._search = _Search(job)
            return {}
        assert self._search is not None
        match job["job"]:
            case "propose":
                return {"trace": self._search.propose()}
            case "tell":
                return {"is_known": self._search.tell(job["trace"], job["seconds"])}
        raise ValueError(f"there is no job {job['job']!r}")


class _Search:
    """MetaSchedule's evolutionary search over the traces of one kernel.

    Parameters
    ----------
    job : Mapping
        ``problem`` and ``target`` as JSON, ``trials`` at most, and a ``seed``.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        from . import trace

        self._trace = trace
        self._problem = problem_from_json(kernels, job["problem"])
        self._module = trace.unscheduled(self._problem)
        self._ms = ms = meta_schedule()
        self._target = target_from_json(job["target"])
        self._seed = 1 + job["seed"]  # it takes no 0
        self._context, spaces = self._design()
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._module)
        self._model = ms.cost_model.XGBModel(num_warmup_samples=BATCH)
        self._context.pre_tuning(job["trials"] + BATCH, BATCH, spaces, self._database, self._model)
        self._known: dict[str, float | None] = {}
        self._waiting: list[Proposed] = []
        self._batch: list[Proposed] = []
        self._earlier: list[Proposed] = []  # of a process before this one

    def _design(self) -> tuple[Any, Any]:
        """The search's context, and the families of traces that it draws from.

        Its rule of tiles puts what reads a product element by element into the tiles of that product, and fails where
        that reads another computed tensor as well, as a normalised product does.  Then the rule goes without.
        """
        rules = self._ms.schedule_rule
        usual = list(rules.ScheduleRule.create("llvm"))
        try:
            return self._drawn_by(usual)
        except ScheduleError:
            return self._drawn_by(
                [_without_writes(rules) if isinstance(rule, rules.MultiLevelTiling) else rule for rule in usual]
            )

    def _drawn_by(self, rules: list[Any]) -> tuple[Any, Any]:
        context = self._ms.TuneContext(
            self._module,
            target=self._target.tvm,
            space_generator=self._ms.space_generator.PostOrderApply(
                sch_rules=rules,
                postprocs=self._ms.postproc.Postproc.create("llvm"),
                mutator_probs=self._ms.mutator.Mutator.create("llvm"),
            ),
            search_strategy=self._ms.search_strategy.EvolutionarySearch(population_size=POPULATION),
            rand_state=self._seed,
            num_threads=self._target.threads,
        )
        return context, context.generate_design_space()

    def propose(self) -> str | None:
        """The next trace; None when the search has ended."""
        while True:
            while self._waiting:
                text = self._waiting.pop(0).text
                if text not in self._known:
                    return text
            self._learn()
            found = self._context.generate_measure_candidates()
            if found is None:
                return None
            self._batch = [Proposed(self._trace.written(c.sch.trace), c) for c in found]
            self._waiting = list(self._batch)

    def tell(self, text: str, seconds: float | None) -> bool:
        """What a trace took, this process's or an earlier one's; False if it is none of this kernel."""
        own = next((proposed for proposed in self._batch if proposed.text == text), None)
        if own is None and not self._adopt(text, seconds):
            return False
        self._known[text] = seconds
        return True

    def _adopt(self, text: str, seconds: float | None) -> bool:
        """Learn from a trace that an earlier process proposed."""
        try:
            made = self._trace.scheduled(self._problem, self._trace.TraceSchedule(text))
        except CompileError:
            return False
        information = self._ms.arg_info.ArgInfo.from_entry_func(self._module)
        self._earlier.append(Proposed(text, self._ms.MeasureCandidate(made, information), seconds))
        return True

    def _learn(self) -> None:
        """Hand what was measured to the database, the cost model and the search."""
        for proposed in self._batch:
            proposed.seconds = self._known.get(proposed.text)
        valid = [proposed for proposed in (*self._earlier, *self._batch) if proposed.seconds is not None]
        for proposed in valid:
            self._database.commit_tuning_record(
                self._ms.database.TuningRecord(
                    proposed.candidate.sch.trace,
                    self._workload,
                    [proposed.seconds],
                    self._target.tvm,
                    proposed.candidate.args_info,
                )
            )
        if valid:
            results = [self._result(proposed) for proposed in valid]
            self._model.update(self._context, [proposed.candidate for proposed in valid], results)
        if self._batch:
            candidates = [proposed.candidate for proposed in self._batch]
            self._context.notify_runner_results(candidates, [self._result(proposed) for proposed in self._batch])
        self._batch, self._earlier = [], []

    def _result(self, proposed: Proposed) -> Any:
        """A measurement as MetaSchedule has it."""
        if proposed.seconds is None:
            return self._ms.runner.RunnerResult(None, "not valid")
        return self._ms.runner.RunnerResult([proposed.seconds], None)


def _without_writes(rules: ModuleType) -> Any:
    """MetaSchedule's rule of tiles for processors, without the tile that results are written through."""
    return rules.MultiLevelTiling(structure="SSRSRS", max_innermost_factor=64, reuse_read=None, reuse_write=None)


def meta_schedule() -> ModuleType:
    """TVM's MetaSchedule, imported in seconds.

    What it imports defines thousands of functions for tensor cores and asks :func:`inspect.getmodule` about each, which
    looks through every module that is loaded: 20 to 40 seconds.  Here it looks where the answer is written.
    """
    slow = inspect.getmodule

    def getmodule(of: Any, _filename: str | None = None) -> ModuleType | None:
        if inspect.ismodule(of):
            return of
        name = of.f_globals.get("__name__") if inspect.isframe(of) else getattr(of, "__module__", None)
        return sys.modules.get(name or "")

    inspect.getmodule = getmodule
    try:
        import tvm.s_tir.tensor_intrin  # noqa: F401
    finally:
        inspect.getmodule = slow
    from tvm.s_tir import meta_schedule as found

    return found  # type: ignore[no-any-return]


if __name__ == "__main__":
    answer_lines(Proposer())

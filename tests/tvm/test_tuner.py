"""The tuner: what a bad candidate costs, what is kept, and how a search goes on."""

import math
from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import pytest

from dtn_core.interpret import interpret
from dtn_tvm import records
from dtn_tvm.candidates import Options
from dtn_tvm.engines import TuneError
from dtn_tvm.measuring import values
from dtn_tvm.measuring.process import StartError
from dtn_tvm.recipe import checked, recipe, recipes
from dtn_tvm.site import local
from dtn_tvm.targets import target
from dtn_tvm.trials import Log, Trial, trials_path
from dtn_tvm.tune import tune

OPTIONS = Options(family="families", measure_timeout=4, ceilings=False)


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    return target("cpu")


@pytest.fixture
def run(cpu, problem, tmp_path):
    """Tunes the fake family; gives record, progress and the file of records."""

    def tuned(options=OPTIONS, watch=lambda progress: None):
        path = tmp_path / "records.jsonl"
        with local(cpu) as site:
            return (*tune(problem, cpu, site, path, options, watch), path)

    return tuned


class TestIsolation:
    """Each of these would end the process, or never end, or be believed, were it measured here."""

    def test_bad_candidates_are_counted_by_reason_and_the_best_good_one_wins(self, offer, run, problem):
        fast = families.Schedule("good", "T.vectorized")
        offer("slow", "unbuildable", "segfault", "hang", "wrong", "unwritten", "missing", fast)
        record, progress, path = run()
        assert progress.failures == {
            "does not build": 1, "crashed": 2, "hung": 1, "wrong result": 2,
        }  # fmt: skip
        assert record.schedule == fast.to_json()
        assert record.receipt.seconds < 0.02
        assert record.receipt.errors == {"rms": 0.0, "row": 0.0}
        assert record.receipt.checked == problem.sizes
        assert progress.details["does not build"] == "ValueError: the accumulator does not fit"
        assert progress.details["crashed"] == "SIGSEGV"
        assert records.read(path).records == (record,)

    def test_no_valid_candidate_is_an_error_with_the_commonest_reason(self, offer, run, tmp_path):
        offer("wrong", families.Schedule("wrong", "T.vectorized"), "unbuildable")
        said = r"none of 3 candidates is valid; the commonest reason \(2 of 3\): wrong result: rms error 5.0e-01"
        with pytest.raises(TuneError, match=said):
            run()
        assert not (tmp_path / "records.jsonl").exists()


class TestResume:
    def test_after_ctrl_c_what_was_measured_is_kept_and_the_next_run_goes_on(self, offer, run):
        schedules = [families.Schedule("slow", "T.serial"), families.Schedule("slow", "T.vectorized")]
        best = families.Schedule("good", "T.serial")
        offer(*schedules, best, families.Schedule("good", "T.vectorized"))

        def stop(progress):
            if progress.done == 2:
                raise KeyboardInterrupt

        record, progress, path = run(watch=stop)
        assert progress.interrupted
        assert progress.done == 2
        assert records.read(path).records == (record,)

        record, progress, path = run()
        assert (progress.done, progress.resumed, progress.interrupted) == (4, 2, False)
        assert record.schedule["behaviour"] == "good"
        assert len(records.read(path).records) == 1

    def test_a_crash_is_not_tried_again_and_trials_count_those_of_earlier_runs(self, offer, run):
        offer("segfault", "good", families.Schedule("good", "T.vectorized"))
        run(replace(OPTIONS, trials=2))
        seen = []
        _, progress, _ = run(replace(OPTIONS, trials=2), lambda progress: seen.append(progress.done))
        assert seen == [2]
        assert (progress.resumed, progress.failures) == (2, {"crashed": 1})

    def test_what_was_given_up_on_is_measured_again_with_more_time(self, offer, run):
        offer(families.Schedule("slow", "T.serial"), families.Schedule("slow", "T.vectorized"), "hang")
        hasty = replace(OPTIONS, measure_timeout=0.05)
        said = r"none of 3 candidates is valid; .*\(3 of 3\): hung: no answer in 0.05 s"
        with pytest.raises(TuneError, match=said):
            run(hasty)
        with pytest.raises(TuneError, match=r"none of 3 candidates is valid, 3 of them measured by an earlier run; "):
            run(hasty)
        record, progress, _ = run()
        assert record.schedule["behaviour"] == "slow"
        assert (progress.done, progress.resumed, progress.failures) == (3, 0, {"hung": 1})
        _, progress, _ = run(hasty)
        assert (progress.done, progress.resumed, progress.failures) == (3, 3, {"hung": 1})


@pytest.mark.parametrize(("name", "said"), [("nvidia/h200", "no card; .* see dtn tune build$"), ("cpu", "no card$")])
def test_a_card_that_is_not_here_may_be_elsewhere(offer, problem, tmp_path, name, said):
    offer("good")

    class Absent:
        def ask(self, job, timeout):
            raise StartError("no card")

    with pytest.raises(TuneError, match=f"^{name}: {said}"):
        tune(problem, target(name), Absent(), tmp_path / "records.jsonl", OPTIONS)


class TestTrials:
    def test_a_line_that_was_cut_short_is_measured_again(self, tmp_path):
        log = Log(trials_path(tmp_path / "records.jsonl"), {"operator": "twice"})
        log.append(Trial({"tile": 8}, 1e-3, {"rms": 0.0}))
        path = tmp_path / "records.trials.jsonl"
        path.write_bytes(path.read_bytes() + path.read_bytes()[:40])
        log.append(Trial({"tile": 16}, failure="hung"))
        assert [trial.schedule for trial in log.read()] == [{"tile": 8}, {"tile": 16}]

    def test_another_search_sees_none_of_them(self, tmp_path):
        path = tmp_path / "trials.jsonl"
        Log(path, {"dtype": "float32"}).append(Trial({"tile": 8}, 1e-3, {}))
        assert Log(path, {"dtype": "float16"}).read() == []


class TestReference:
    """What kernels are compared with is itself held to the dense interpreter."""

    @pytest.mark.parametrize("direction", ["forward", "backward"])
    @pytest.mark.parametrize("op", ["tensor_attention:mask=causal,decay=0.9", "tensor_attention:normalize=none"])
    def test_it_is_the_operator(self, op, direction, tmp_path):
        from dtn_core.operators import load
        from dtn_core.passes.differentiate import differentiate
        from dtn_tvm.problem import Problem

        operator = load(op)
        sizes = {"batch": 2, "heads": 1, "n": 9, "d": 3, "e": 4}
        of = recipe(Problem(operator, direction, "float32", sizes), tmp_path)
        program = operator.program if direction == "forward" else differentiate(operator.program)
        wanted = interpret(program, **_named(of), **operator.scalars)
        outputs = wanted if isinstance(wanted, tuple) else (wanted,)
        by_place = [outputs[output["place"]] for output in of["outputs"]]
        for result, expected in zip(values.reference(of, tmp_path), by_place, strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)

    def test_a_gradient_that_is_dense_is_compared_at_a_shorter_sequence(self, tmp_path):
        from dtn_core.operators import load
        from dtn_tvm.problem import Problem

        causal = load("tensor_attention:mask=causal,normalize=none")
        sizes = {"batch": 1, "heads": 8, "n": 8192 + 100, "d": 64, "e": 64}
        forward, backward = (Problem(causal, direction, "float32", sizes) for direction in ("forward", "backward"))
        assert checked(forward) is forward
        assert dict(checked(backward).sizes) == {**sizes, "n": 612}
        small = Problem(causal, "backward", "float32", {**sizes, "n": 64})
        timed, proof = recipes(small, tmp_path)
        assert timed is proof

    def test_inputs_are_scaled_until_the_result_fits_into_float16(self, tmp_path):
        from dtn_core.operators import load
        from dtn_tvm.problem import Problem

        causal = load("tensor_attention:mask=causal,normalize=none,order=3")
        of = recipe(
            Problem(causal, "forward", "float16", {"batch": 1, "heads": 1, "n": 2048, "d": 16, "e": 16}), tmp_path
        )
        (result,) = values.reference(of, tmp_path)
        assert of["scale"] < 1
        assert np.abs(result).max() < 65504

    def test_one_wrong_row_among_many_is_seen(self):
        wanted = np.random.default_rng(0).standard_normal((1, 1, 4096, 8))
        result = wanted.copy()
        result[0, 0, 77] *= 1.01
        found = values.errors([result], [wanted])
        assert found["rms"] < 1e-3
        assert math.isclose(found["row"], 0.01, rel_tol=1e-6)

    def test_a_value_that_is_no_number_is_an_infinite_error(self):
        wanted = np.ones((2, 3))
        result = wanted.copy()
        result[1, 2] = np.nan
        assert values.errors([result], [wanted]) == {"rms": math.inf, "row": math.inf}


def _named(of):
    return {about["name"]: array for about, array in zip(of["inputs"], values.inputs(of), strict=True)}


def test_the_measuring_package_needs_nothing_of_this_library():
    folder = Path(values.__file__).parent
    imports = [line for file in folder.glob("*.py") for line in file.read_text().splitlines() if "import " in line]
    assert not [line for line in imports if "dtn_" in line or "import tvm\n" in line or "ml_dtypes" in line]

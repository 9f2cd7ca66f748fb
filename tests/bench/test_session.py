"""A race in a process of its own, over the NumPy backend; no test looks at a time."""

import os
import shutil
import time
from concurrent.futures import wait
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.progress import Progress

from bench import memory, oracle
from bench.case import FORWARD, SECOND_ORDER, START, Contender, Race, Task
from bench.causal import KEPT_ENVIRONMENT
from bench.problems import ATTENTION, CAUSAL_1
from bench.session import CallFailedError, Process, Session, glibc

OURS = Contender("numpy", "dtn", "eager", ours=True)


@pytest.fixture
def session(tmp_path):
    right, other = (Task(FORWARD, "numpy", "dtn", "eager", 32, computes) for computes in (SECOND_ORDER, CAUSAL_1))
    oracle.write_references([right], tmp_path)
    expected = tmp_path / f"{oracle.reference_name(right)}.npz"
    shutil.copy(expected, tmp_path / f"{oracle.reference_name(other)}.npz")  # so that order 1 looks wrong
    with Progress(disable=True) as progress, Session(["numpy"], tmp_path, progress, 1e-4) as made:
        yield made


def race(*contenders, rounds=3):
    return Race("case", FORWARD, tuple((contender, 32) for contender in contenders), rounds)


def test_every_round_has_a_time_and_the_output_was_compared(session):
    (found,) = session.run(race(OURS))
    assert len(found.rounds) == 3
    assert all(seconds > 0 for seconds in found.rounds)
    assert 0 < found.error < 1e-5
    assert (found.n, found.ours, found.absent, found.failed) == (32, True, None, False)


def test_a_wrong_output_gets_no_times_and_the_others_go_on(session):
    wrong, right = session.run(race(Contender("numpy", "dtn", "eager", CAUSAL_1), OURS))
    assert wrong.rounds == []
    assert wrong.failed
    assert "WrongOutputError: numpy dtn eager, n = 32: relative error" in wrong.absent
    assert len(right.rounds) == 3


@pytest.mark.parametrize(
    ("contender", "why"),
    [
        (Contender("torch", "twin", "eager"), "not asked for"),
        (Contender("numpy", "dtn", "eager", stops=16, why="quadratic"), "quadratic"),
        (Contender("numpy", "dtn", "eager", grid=()), "no setting fits this length"),
    ],
)
def test_who_does_not_take_part_says_why_and_is_no_failure(session, contender, why):
    (found,) = session.run(race(contender))
    assert (found.absent, found.failed, found.rounds) == (why, False, [])


def test_a_library_that_cannot_express_the_operator_is_no_failure(session):
    (found,) = session.run(race(Contender("numpy", "opt_einsum", "eager")))
    assert (found.absent, found.failed, found.rounds) == ("not written for second order", False, [])


@pytest.mark.skipif(not glibc(), reason="only glibc can be told to keep what is freed")
def test_a_race_that_keeps_memory_has_a_process_that_was_told_and_ends_with_it(session):
    ordinary = race(OURS)
    keeping = replace(ordinary, environment=KEPT_ENVIRONMENT)
    resident = []
    for each in (ordinary, keeping):
        process = session.process(each, "numpy")
        process.call(exec, "import numpy; numpy.ones(1 << 24)")
        resident.append(process.call(memory.status, "VmRSS"))
    assert resident[0] < 8 << 24 < resident[1]
    (found,) = session.run(keeping)
    assert len(found.rounds) == 3
    assert [*session.processes] == [("numpy", ())]
    assert os.environ.keys().isdisjoint(dict(KEPT_ENVIRONMENT))


def test_where_memory_cannot_be_kept_the_race_says_so(session, monkeypatch):
    monkeypatch.setattr("bench.session.glibc", lambda: False)
    (found,) = session.run(replace(race(OURS), environment=KEPT_ENVIRONMENT))
    assert (found.absent, found.failed) == (
        "the C library is not glibc, which can be told to keep what is freed",
        False,
    )


def test_a_framework_that_comes_after_another_has_a_block_that_does_not_count(session, monkeypatch):
    called = []
    monkeypatch.setattr(session, "process", lambda *_: SimpleNamespace(call=lambda *call: called.append(call) or 1.0))
    monkeypatch.setattr("bench.session.SETTLE", 0)
    for framework, number in (("numpy", 1), ("numpy", 2), ("torch", 3), ("torch", 4), ("numpy", 1)):
        session.block(None, framework, number)
    assert [number for _, number, _ in called] == [1, 1, 2, 3, 3, 4, 1, 1]


def test_a_start_has_times_and_no_error(session):
    entries = ((Contender("numpy", "look-up", "tensor attention", ours=True, computes=ATTENTION), 0),)
    (found,) = session.run(Race("look-up", START, entries, 2))
    assert len(found.rounds) == 2
    assert found.error is None


def test_every_trial_of_a_candidate_is_kept(session):
    (found,) = session.run(race(Contender("numpy", "dtn", "eager", grid=({}, {}))))
    assert [len(candidate["blocks"]) for candidate in found.candidates] == [2, 2]
    assert len(found.rounds) == 3


def test_another_mode_takes_over_what_was_chosen(session):
    first, second = session.run(race(OURS, Contender("numpy", "dtn", "again", like="eager")))
    assert second.settings == first.settings
    assert len(second.rounds) == 3


def test_a_process_that_dies_is_a_failure_that_carries_its_last_words(tmp_path):
    process = Process(tmp_path / "log")
    with pytest.raises(CallFailedError, match="BrokenProcessPool.* gone"):
        process.call(exec, "import os; os.write(2, b'gone'); os._exit(1)")
    process.close()


def test_an_exception_in_a_process_is_a_failure_of_one_line(tmp_path):
    process = Process(tmp_path / "log")
    with pytest.raises(CallFailedError, match="^ValueError: invalid literal"):
        process.call(int, "x")
    assert process.call(os.getpid) != os.getpid()
    process.close()


def test_an_interruption_ends_processes_that_are_busy(tmp_path):
    process = Process(tmp_path / "log")
    process.call(os.getpid)
    waiting = process.pool.submit(time.sleep, 60)
    while not waiting.running():
        time.sleep(0.01)
    process.close(at_once=True)
    done, _ = wait([waiting], timeout=10)
    assert done

"""The order in which candidates are measured."""

from itertools import product

import pytest

from dtn_tvm.search import Search

SPACE = [{"tile": t, "unroll": u, "chunk": c} for t, u, c in product((4, 8, 16, 32), (1, 2, 4), (16, 32, 64, 128))]


def time_of(schedule):
    """Factors of the parameters, one by one, as schedules mostly behave."""
    tile = {4: 1.8, 8: 1.0, 16: 1.2, 32: 2.5}[schedule["tile"]]
    unroll = {1: 1.3, 2: 1.0, 4: 1.1}[schedule["unroll"]]
    return tile * unroll * {16: 1.4, 32: 1.1, 64: 1.0, 128: 1.5}[schedule["chunk"]]


def test_the_default_is_first_and_every_candidate_comes_once():
    search = Search(SPACE, SPACE[7])
    taken = []
    while (schedule := search.propose()) is not None:
        taken.append(schedule)
        search.tell(schedule, time_of(schedule))
    assert taken[0] == SPACE[7]
    assert sorted(map(str, taken)) == sorted(map(str, SPACE))


def test_a_third_of_the_space_finds_the_best():
    search = Search(SPACE, SPACE[0])
    times = []
    for _ in range(len(SPACE) // 3):
        schedule = search.propose()
        times.append(time_of(schedule))
        search.tell(schedule, times[-1])
    assert min(times) == 1.0


def test_parameters_that_fail_are_avoided():
    search = Search(SPACE, SPACE[0])
    failures = 0
    for _ in range(24):
        schedule = search.propose()
        bad = schedule["tile"] == 32
        failures += bad
        search.tell(schedule, None if bad else time_of(schedule))
    assert failures <= 4


def test_what_is_not_of_the_space_is_not_counted():
    assert not Search(SPACE, SPACE[0]).tell({"tile": 5}, 1.0)


def test_what_is_told_twice_counts_once():
    """Two tuners that write into one file measure the same candidates."""
    search = Search([{"tile": 4}, {"tile": 8}], default={"tile": 8})
    assert search.tell({"tile": 4}, 1.0)
    assert not search.tell({"tile": 4}, 2.0)


@pytest.mark.parametrize("space", [SPACE[:1], SPACE[:2]])
def test_a_space_of_hardly_anything(space):
    search = Search(space, space[0])
    for _ in space:
        assert search.tell(search.propose(), None)
    assert search.propose() is None

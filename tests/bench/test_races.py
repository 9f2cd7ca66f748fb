"""``python -m bench run``: what is kept and said of races, whatever ends it."""

import pytest
from typer.testing import CliRunner

from bench import __main__, ceilings, results
from bench.case import FORWARD, Figures
from bench.problems import SECOND_ORDER


@pytest.fixture
def races(monkeypatch):
    """Has races call the function that this gives it; its name is all that is measured of one."""
    called = []

    class Session:
        details = {}

        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def why_not(self, *_):
            return "not asked for"

        def run(self, race):
            for function in called:
                function(race)
            return [Figures(race.case, "torch", "dtn", "eager", 1024, True, SECOND_ORDER, {}, [1.0], 1e-6)]

    monkeypatch.setattr(__main__, "Session", Session)
    monkeypatch.setattr(__main__, "check_oracle", lambda **_: 0.0)
    monkeypatch.setattr(ceilings, "ceilings", lambda _: {})
    return called.append


def run(path):
    names = ("--race", "forward, n = 512", "--race", "forward and gradients, n = 1024")
    return CliRunner().invoke(__main__.app, ["run", "causal", *names, "--out", str(path)])


def test_a_race_is_on_disk_before_the_next_begins(races, tmp_path):
    path, before = tmp_path / "results.json", []
    races(lambda race: before.append([result.race for result in results.read(path)] if path.exists() else []))
    done = run(path)
    assert done.exit_code == 0, done.output
    assert before == [[], [], ["forward, n = 512"]]  # the ceilings are a race too
    assert [result.race for result in results.read(path)] == ["forward, n = 512", "forward and gradients, n = 1024"]


def test_a_file_is_told_of_each_race_that_is_over(races, tmp_path):
    told = run(tmp_path / "results.json").stderr
    assert "causal: forward, n = 512: done after 0 s\ncausal: forward and gradients, n = 1024: done after 0 s" in told


def test_ctrl_c_leaves_results_and_their_report(races, tmp_path):
    def interrupt(race):
        if race.case != FORWARD and race.case != ceilings.race("cpu").case:
            raise KeyboardInterrupt

    races(interrupt)
    assert run(tmp_path / "results.json").exit_code == 130
    assert [result.race for result in results.read(tmp_path / "results.json")] == ["forward, n = 512"]
    assert "forward" in (tmp_path / "results" / "report.md").read_text()

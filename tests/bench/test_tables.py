"""What is said about figures: ratios, losing rows, targets, and what became slower."""

import json
from dataclasses import replace
from itertools import count

import pytest

from bench import causal, ceilings, gpu, kernels, layers, plots, results, startup, unmasked
from bench.case import FORWARD, GRADIENTS, SECOND_ORDER, SOFTMAX, Figures, Shape
from bench.compare import compare
from bench.problems import CAUSAL_3
from bench.report import Row, Table, Target, contest, duration, everything, summary_table, target_table
from bench.results import Result
from bench.start import ProcessTimer

OURS = Figures(FORWARD, "torch", "dtn", "eager", 8192, True, SECOND_ORDER, {}, [1.0, 1.1, 1.2], 1e-6)
TWIN = replace(OURS, implementation="twin", ours=False, settings={"chunk": 64}, rounds=[2.0, 2.3, 2.4])


def times(figures, factor):
    return replace(figures, rounds=[factor * seconds for seconds in figures.rounds])


def test_losing_rows_are_bold_and_others_are_not():
    table = Table("speed", ("what", "ratio"), (Row(("a", "0.9")), Row(("b", "1.1"), losing=True)))
    assert table.markdown().splitlines()[4:6] == ["| a | 0.9 |", "| **b** | **1.1** |"]


def test_ours_is_compared_with_the_fastest_of_the_same_mode():
    compiled = times(replace(TWIN, mode="compiled"), 0.1)
    slow = times(replace(TWIN, implementation="dense"), 3)
    (row,) = contest([OURS, TWIN, slow, compiled], FORWARD).rows
    assert row.cells[3:] == ("torch: twin, eager (chunk 64)", "2.30 s", "0.50")
    assert not row.losing


def test_in_another_framework_ours_is_compared_with_the_fastest_anywhere():
    jax = replace(OURS, framework="jax", mode="jit")
    (row,) = contest([jax, times(TWIN, 0.25), replace(TWIN, mode="compiled")], FORWARD).rows
    assert row.cells[-1] == "2.00"
    assert row.losing


def test_another_operator_is_no_rival():
    assert contest([OURS, replace(TWIN, computes=SOFTMAX)], FORWARD).rows == ()


def test_who_is_absent_is_shown_with_the_reason():
    (row,) = everything([replace(TWIN, rounds=[], absent="jax is not installed")], FORWARD).rows
    assert row.cells[2] == "jax is not installed"


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5e-6, "2.50 µs"), (0.0123, "12.3 ms"), (0.9, "900 ms"), (1, "1.00 s"), (123, "123 s")]
)
def test_durations_have_three_digits(seconds, text):
    assert duration(seconds) == text


def test_targets_are_those_of_the_length_they_were_promised_for():
    softmax = times(replace(OURS, implementation="sdpa", ours=False, computes=SOFTMAX), 4)
    found = {
        (target.what, target.where): (target.value, target.met) for target in causal.targets([OURS, TWIN, softmax])
    }
    assert found == {
        ("forward, torch eager: times faster than scaled_dot_product_attention", "n = 8192"): (4, False),
        ("forward, torch eager: time ÷ best by hand", "n = 8192, twin"): (0.5, True),
    }
    assert causal.targets([replace(f, n=1024) for f in (OURS, TWIN, softmax)]) == []


def test_kernels_are_compared_with_the_fastest_generated_source_of_two_frameworks():
    kernel = times(replace(OURS, implementation="dtn tvm"), 0.5)
    jax = times(replace(OURS, framework="jax", mode="jit"), 0.75)
    numpy = times(replace(OURS, framework="numpy"), 0.25)
    found = {
        target.what: (target.where, target.value, target.met) for target in causal.targets([OURS, kernel, jax, numpy])
    }
    what = "forward, kernel: times faster than the fastest generated source"
    assert found[what] == ("n = 8192, jax jit", 1.5, False)


def test_kernels_without_order_are_compared_with_the_line_by_hand():
    ours = replace(OURS, case=unmasked.case(unmasked.ATTENTION))
    kernel = times(replace(ours, implementation="dtn tvm"), 0.25)
    by_hand = replace(ours, implementation="by hand", ours=False)
    found = {
        target.what: (target.where, target.value, target.met) for target in unmasked.targets([ours, kernel, by_hand])
    }
    assert found["tensor attention, kernel: times faster than torch by hand"] == ("n = 8192", 4, True)
    short = unmasked.targets([replace(f, n=4096) for f in (ours, kernel, by_hand)])
    assert not any("kernel" in target.what for target in short)


def kernel_figures(kind, n, factor, computes=SECOND_ORDER, **named):
    """Generated source, and a kernel that is faster by the factor."""
    native = replace(OURS, case=kernels.case(computes, kind), computes=computes, n=n, **named)
    return [native, times(replace(native, implementation="dtn tvm"), 1 / factor)]


def test_kernels_have_to_be_faster_where_sequences_are_long_and_no_slower_where_they_are_short():
    figures = [
        *kernel_figures(FORWARD, 8191, 0.95),
        *kernel_figures(FORWARD, 8192, 1.5, CAUSAL_3),
        *kernel_figures(GRADIENTS, 512, 0.5),
        *kernel_figures(GRADIENTS, 2048, 1.9, shape=Shape(features=32)),
        *kernel_figures(GRADIENTS, 2048, 1.5, shape=Shape(heads=1)),
    ]
    found = [(t.what, t.where, pytest.approx(t.value), t.limit, t.met) for t in kernels.targets(figures)]
    assert found == [
        ("forward, otherwise: native ÷ kernel", "second order, n = 8191", 0.95, 0.9, True),
        ("forward, from 8192 tokens on: native ÷ kernel", "causal order 3, n = 8192", 1.5, 2, False),
        ("forward and gradients, otherwise: native ÷ kernel", "second order, n = 512", 0.5, 0.9, False),
        (
            "forward and gradients, from 2048 tokens on: native ÷ kernel",
            "second order, n = 2048, 1×8×n×32 float32",
            1.9,
            2,
            False,
        ),
        (
            "forward and gradients, otherwise: native ÷ kernel",
            "second order, n = 2048, 1×1×n×64 float32",
            1.5,
            0.9,
            True,
        ),
    ]


def test_the_rate_of_a_kernel_is_compared_with_that_of_a_large_product():
    _, kernel = kernel_figures(FORWARD, 8192, 1)
    product = replace(kernel, case=kernels.CEILING_CASE, implementation=ceilings.PRODUCT, n=ceilings.SQUARE)
    (target,) = kernels.targets([kernel, replace(product, computes=ceilings.PRODUCT)])
    assert target.what == "forward: rate ÷ that of a large product of matrices"
    assert target.value == pytest.approx(4 * 8192 * 8 * 64 * 128 / (2 * 2048**3))
    assert kernels.targets([kernel]) == []


def test_a_kernel_that_is_slower_is_bold_and_one_that_is_absent_says_why():
    native, kernel = kernel_figures(FORWARD, 64, 0.95)
    wide, _ = kernel_figures(FORWARD, 64, 1, shape=Shape(values=128))
    absent = replace(wide, implementation="dtn tvm", rounds=[], absent="no kernel")
    _, table = kernels.tables([native, kernel, wide, absent])
    assert [(row.cells, row.losing) for row in table.rows] == [
        (("second order, forward", "64", "1.10 s", "1.16 s", "0.95"), True),
        (("second order, forward", "64 (1×8×n×64, e = 128, float32)", "1.10 s", "no kernel", ""), False),
    ]


def test_every_doubling_has_a_target_with_freed_memory_kept_and_without():
    growing = [replace(times(OURS, factor), n=n) for n, factor in ((1024, 1), (2048, 3), (4096, 6))]
    kept = [replace(times(f, 1024 / f.n), n=f.n) for f in growing]
    figures = [replace(f, case=case) for case, every in ((causal.GROWTH, growing), (causal.KEPT, kept)) for f in every]
    found = [(target.what, target.where, pytest.approx(target.value), target.met) for target in causal.targets(figures)]
    assert found == [
        ("forward, n doubled: time ÷ that of half", "n = 2048", 3, False),
        ("forward, n doubled: time ÷ that of half", "n = 4096", 2, True),
        ("forward, n doubled, freed memory kept: time ÷ that of half", "n = 2048", 1.5, True),
        ("forward, n doubled, freed memory kept: time ÷ that of half", "n = 4096", 1, True),
    ]


def test_a_summary_has_the_least_and_the_most_of_all_places_and_says_where_one_is_missed():
    here = [Target("time", f"n = {n}", [value], 1.05) for n, value in ((128, 0.5), (1024, 1.0534), (4096, 0.7))]
    there = [Target("time", "n = 128", [0.9], 1.05), Target("faster", "n = 128", [1.5], 2, at_least=True)]
    machines = [("here", here), ("there", there), ("nowhere", [])]
    assert [row.cells for row in summary_table("speed", machines).rows] == [
        ("time", "≤ 1.05", "**0.50 – 1.053** (n = 1024)", "0.90", ""),
        ("faster", "≥ 2", "", "**1.50** (n = 128)", ""),
    ]


def test_a_target_is_missed_where_the_interval_of_the_median_is_beyond_it():
    noisy = Target("time", "n = 128", [0.9, 1.1, 1.2, 1.0, 1.15, 1.1, 1.3], 1.05)
    clear = replace(noisy, rounds=[1.1, 1.11, 1.2, 1.06, 1.15, 1.1, 1.3])
    low = Target("faster", "n = 128", [1.5, 1.9, 2.2], 2, at_least=True)
    assert [(t.verdict, t.interval) for t in (noisy, clear, low, replace(low, limit=1.8), replace(low, limit=3))] == [
        ("within noise", "0.90 – 1.30"),
        ("missed", "1.06 – 1.30"),
        ("within noise", "1.50 – 2.20"),
        ("met", "1.50 – 2.20"),
        ("missed", "1.50 – 2.20"),
    ]
    rows = target_table([noisy, clear]).rows
    assert [(row.cells[-1], row.losing) for row in rows] == [("within noise", False), ("missed", True)]


def test_a_summary_names_a_place_that_is_missed_before_one_that_noise_may_have_made():
    noisy = Target("time", "n = 128", [0.9, 1.4, 1.5], 1.05)
    missed, met = Target("time", "n = 1024", [1.2, 1.3], 1.05), Target("time", "n = 4096", [0.7], 1.05)
    found = summary_table("speed", [("here", [noisy, met]), ("there", [noisy, missed, met])]).rows[0].cells
    assert found[2:] == ("0.70 – 1.40 (n = 128), within noise", "**0.70 – 1.40** (n = 1024)")


def test_a_summary_has_a_column_for_each_of_two_results_of_one_machine():
    before, after = ([Target("time", "n = 128", [value], 1.05)] for value in (0.9, 0.8))
    table = summary_table("speed", [("here", before), ("here", after)])
    assert table.columns == ("what", "target", "here", "here")
    assert [row.cells for row in table.rows] == [("time", "≤ 1.05", "0.90", "0.80")]


def test_pictures_show_no_memory_that_was_kept():
    figures = [replace(OURS, case=case, n=1024) for case in (causal.GROWTH, causal.KEPT)]
    assert plots.series([figures[0], times(figures[1], 0.5)], SECOND_ORDER, memory=False) == {
        "this library, torch": [(1024, 1.1, True)]
    }


def test_pictures_show_no_races_of_kernels_and_kernels_in_a_colour_of_their_own():
    kernel = replace(OURS, implementation="dtn tvm")
    apart = [replace(f, case=kernels.case(SECOND_ORDER, FORWARD), n=64) for f in (OURS, kernel)]
    lines = plots.series([OURS, kernel, *apart], SECOND_ORDER, memory=False)
    assert lines == {name: [(8192, 1.1, True)] for name in ("this library, torch", "this library, TVM, torch")}
    assert len({plots._colour(name) for name in lines}) == 2


def test_memory_is_compared_with_the_least_of_the_others():
    ours = replace(OURS, case=GRADIENTS, peak_memory=40)
    others = [replace(TWIN, case=GRADIENTS, peak_memory=100), replace(TWIN, case=GRADIENTS, peak_memory=90)]
    assert causal.targets([ours, *others])[-1].value == 40 / 90


def test_every_scale_asks_only_for_settings_that_fit():
    for scale in causal.SCALES:
        for race in causal.races(scale):
            for contender, n in race.entries:
                for settings in contender.grid:
                    assert n % settings.get("chunk", 1) == 0
                    assert n % settings.get("tokens", 1) == 0
                    assert settings.get("tokens", n) % settings.get("chunk", 1) == 0


def test_ours_twice_as_slow_is_slower():
    (found,) = compare([OURS, TWIN], [times(OURS, 2), TWIN])
    assert found.slower(1.03)
    assert found.estimate.value == pytest.approx(2)


def test_a_machine_that_became_slower_for_all_is_no_regression():
    (found,) = compare([OURS, TWIN], [times(OURS, 2), times(TWIN, 2)])
    assert found.estimate.value == pytest.approx(1)
    assert not found.slower(1.0)


def test_noise_is_no_regression():
    noisy = replace(OURS, rounds=[1.0, 1.6, 1.2])
    (found,) = compare([OURS], [noisy])
    assert found.estimate.value > 1.03
    assert not found.slower(1.03)


def test_others_with_other_settings_are_not_compared_with():
    (found,) = compare([OURS, TWIN], [OURS, times(replace(TWIN, settings={"chunk": 32}), 0.5)])
    assert found.others == 0
    assert found.estimate.value == pytest.approx(1)


def test_more_figures_make_wider_intervals():
    more = [replace(OURS, n=n) for n in range(20)]
    (alone,) = compare([OURS], [OURS])
    together = compare(more, more)[0]
    assert together.estimate.high > alone.estimate.high


def test_another_shape_is_not_compared_with():
    found = compare([OURS, TWIN], [OURS, times(replace(TWIN, shape=Shape(features=32)), 0.5)])
    assert [each.others for each in found] == [0]


def test_results_come_back_as_they_were_written(tmp_path):
    wanted = [Result("causal", "forward, n = 8192", {"date": "now"}, [OURS, TWIN])]
    results.write(tmp_path / "a.json", wanted)
    assert results.read(tmp_path / "a.json") == wanted


def test_shapes_of_older_results_have_as_many_features_of_values_as_of_keys(tmp_path):
    path = tmp_path / "a.json"
    results.write(path, [Result("causal", "forward, n = 8192", {}, [OURS])])
    written = json.loads(path.read_text())
    del written["races"][0]["figures"][0]["shape"]["values"]
    path.write_text(json.dumps(written))
    assert results.read(path)[0].figures == [OURS]
    assert str(OURS.shape) == "1×8×n×64 float32"


def test_a_race_that_runs_again_takes_the_place_of_the_one_before():
    old = [Result("causal", "a", {}, [OURS]), Result("causal", "b", {}, [OURS])]
    new = [Result("causal", "c", {}, [TWIN]), Result("causal", "a", {}, [TWIN])]
    found = results.merged(old, new)
    assert [(each.race, each.figures) for each in found] == [("a", [TWIN]), ("b", [OURS]), ("c", [TWIN])]


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    old = [Result("causal", "a", {}, [OURS])]
    results.write(path, old)
    with pytest.raises(TypeError):
        results.write(path, [Result("causal", "a", {"number": count()}, [TWIN])])
    assert results.read(path) == old
    assert [*tmp_path.iterdir()] == [path]


def test_another_file_is_no_result(tmp_path):
    path = tmp_path / "a.json"
    for text, why in ((json.dumps({"races": []}), "not a result"), ("# text", "not JSON")):
        path.write_text(text)
        with pytest.raises(results.UnreadableError, match=why):
            results.read(path)


@pytest.mark.parametrize("suite", [causal, unmasked, kernels, layers, startup, gpu])
def test_races_have_names_of_their_own(suite):
    for scale in ("quick", "usual", "full"):
        names = [race.name for race in suite.races(scale)]
        assert len(set(names)) == len(names)


def test_imports_are_timed_with_bytecode_in_place(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert ProcessTimer("import sys; print(int(sys.dont_write_bytecode))").block(0.0) == 0


def test_an_import_is_held_to_what_it_adds():
    ours = replace(OURS, case="import, torch", implementation="dtn after it", n=0, rounds=[0.05])
    framework = replace(ours, implementation="framework", ours=False, rounds=[1.0])
    (target,) = startup.targets([ours, framework])
    assert target.value == pytest.approx(50)
    assert target.met


def test_pictures_are_drawn_from_results(tmp_path):
    pytest.importorskip("matplotlib")
    figures = [replace(f, n=n, peak_memory=n) for n in (1024, 2048) for f in (OURS, TWIN)]
    about = {
        "machine": {"processor": "a processor", "cores": 2},
        "date": "2026-01-01",
        "ceilings": {"flops": 1e11, "bytes": 1e10},
    }
    drawn = plots.draw([Result("causal", "forward", about, figures)], tmp_path)
    assert sorted(path.name for _, path in drawn) == ["memory.png", "roofline.png", "time.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for _, path in drawn)


def test_the_gpu_suite_asks_for_flash_linear_attentions_shapes_on_the_device():
    races = gpu.races("usual")
    assert {race.device for race in races} == {"cuda"}
    asked = {(race.shape.batch, n, race.shape.heads, race.shape.features) for race in races for _, n in race.entries}
    assert set(gpu.FLA_SHAPES) <= asked

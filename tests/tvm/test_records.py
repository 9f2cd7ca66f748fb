"""Files of records: merged, safe with two writers, tolerant of damage, searched by the nearest shape."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from dtn_tvm import records
from dtn_tvm.record import Receipt, Record, from_json, toolchain
from dtn_tvm.targets import target
from dtn_tvm.trials import Log, Trial, trials_path

H200 = target("nvidia/h200")


def record(seconds=1e-3, **changes):
    import families

    sizes = changes.pop("sizes", {"batch": 1, "heads": 2, "n": 300, "d": 16})
    of = families.Problem(families.OPERATOR, "forward", "float32", sizes)
    receipt = Receipt("NVIDIA H200", seconds, {"rms": 1e-7}, {"rms": 1e-5}, sizes)
    made = Record(
        "twice", of.ir_hash, "forward", H200.key, "float32", of.bucket, sizes, toolchain(), {"engine": "grid"},
        families.Schedule().to_json(), receipt, of.operator.notation,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


@pytest.fixture
def full_disk(monkeypatch):
    """Nothing can be written."""

    def full(*given, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("os.fsync", full)


class TestFile:
    def test_a_full_disk_is_said_with_the_file(self, path, full_disk):
        with pytest.raises(records.RecordsError, match=f"records {path}: No space left on device"):
            records.add(path, [record()])
        trials = trials_path(path)
        with pytest.raises(records.RecordsError, match=f"trials {trials}: No space left on device"):
            Log(trials, {}).append(Trial({}))

    def test_a_record_survives_the_file(self, path):
        records.add(path, [record()])
        assert records.read(path).records == (record(),)

    def test_of_two_with_one_key_the_faster_is_kept(self, path):
        records.add(path, [record(2e-3)])
        records.add(path, [record(1e-3)])
        records.add(path, [record(3e-3)])
        assert [found.receipt.seconds for found in records.read(path).records] == [1e-3]

    def test_another_search_is_another_record(self, path):
        records.add(path, [record(), record(options={"engine": "other"})])
        assert len(records.read(path).records) == 2

    def test_no_such_file(self, path):
        with pytest.raises(records.RecordsError, match="No such file"):
            records.read(path)

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(records.RecordsError, match="nowhere"):
            records.add(tmp_path / "nowhere" / "records.jsonl", [record()])

    def test_two_writers_lose_nothing(self, path):
        program = (
            "import sys, test_records\n"
            "from dtn_tvm import records\n"
            "from pathlib import Path\n"
            "for number in range(10):\n"
            "    made = test_records.record(options={'engine': sys.argv[2], 'seed': number})\n"
            "    records.add(Path(sys.argv[1]), [made])\n"
        )
        here = os.path.dirname(__file__)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
        writers = [
            subprocess.Popen([sys.executable, "-c", program, str(path), name], env=environment) for name in ("a", "b")
        ]
        assert [writer.wait() for writer in writers] == [0, 0]
        contents = records.read(path)
        assert len(contents.records) == 20
        assert contents.corrupt == ()
        assert os.listdir(path.parent) == [path.name]


class TestDamage:
    DAMAGE = ('{"format": 1, "operator": "tw', "[1, 2]", "not json", '{"format": 99}', "[" * 100_000, "\udcff\udcfe")

    @pytest.fixture
    def damaged(self, path):
        records.add(path, [record()])
        bad = "\n".join(self.DAMAGE).encode(errors="surrogateescape")
        path.write_bytes(bad + b"\n\n" + path.read_bytes())
        return path

    @pytest.mark.parametrize(
        "schedule", [{}, {"kind": "evil"}, {"kind": "cpu", "chunk": 0}, {"kind": "metaschedule", "trace": {"a": 1}}]
    )
    def test_a_schedule_that_is_none_is_skipped(self, path, schedule):
        records.add(path, [record(), record(schedule=schedule, options={"engine": "other"})])
        contents = records.read(path)
        assert contents.records == (record(),)
        assert [bad.line for bad in contents.corrupt] == [2]
        assert "schedule" in contents.corrupt[0].reason

    def test_corrupt_lines_are_skipped_and_numbered(self, damaged):
        contents = records.read(damaged)
        assert contents.records == (record(),)
        assert [bad.line for bad in contents.corrupt] == [1, 2, 3, 4, 5, 6]
        assert "format 99" in contents.corrupt[3].reason

    def test_adding_keeps_what_could_not_be_read(self, damaged):
        records.add(damaged, [record(options={"engine": "other"})])
        contents = records.read(damaged)
        assert (len(contents.records), len(contents.corrupt)) == (2, 6)

    def test_pruning_drops_it(self, damaged):
        dropped, corrupt = records.prune(damaged)
        assert (len(dropped), len(corrupt)) == (0, 6)
        assert records.read(damaged) == records.Contents((record(),))


class TestAnotherFile:
    """A slip of the fingers destroys nothing: what holds no line of a record is somebody's other file."""

    @pytest.mark.parametrize(
        "text", ["my notes\n", '{"search": {}, "schedule": {}}\n', '{\n "format": 2\n}\n', "\n\0\1"]
    )
    @pytest.mark.parametrize("write", [lambda path: records.add(path, [record()]), records.prune])
    def test_it_stays_as_it_is(self, path, text, write):
        path.write_text(text)
        with pytest.raises(records.RecordsError, match=r"is no file of records \(line [12]: .*\) and stays as it is"):
            write(path)
        assert path.read_text() == text
        assert os.listdir(path.parent) == [path.name]

    @pytest.mark.parametrize("text", ["", "\n", '{"format": 99, "of": "a later version"}\n', '{"format": 1, "cut sh'])
    def test_an_empty_one_and_one_of_another_version_are_of_records(self, path, text):
        path.write_text(text)
        records.add(path, [record()])
        assert records.read(path).records == (record(),)
        path.write_text(text)
        records.prune(path)
        assert path.read_text() == ""


class TestAcceptance:
    """A record is accepted only with the errors that were measured on its device."""

    @pytest.mark.parametrize(
        ("receipt", "said"),
        [
            ({"errors": {}}, "does not say how far off"),
            ({"errors": {"rms": 1e-2}}, r"rms error 1.0e-02 is above 1.0e-05"),
            ({"errors": {"rms": float("nan")}}, "does not say how far off"),
            ({"tolerance": {}}, "no conformance errors"),
            ({"seconds": 0}, "seconds are 0"),
            ({"seconds": 10**400}, "seconds are 1000"),
            ({"errors": {"rms": 10**400}}, "does not say how far off"),
            ({"device": None}, "'device' is not of type str"),
        ],
    )
    def test_a_receipt_that_proves_nothing_is_refused(self, receipt, said):
        described = record().to_json()
        described["receipt"].update(receipt)
        with pytest.raises(ValueError, match=said):
            from_json(described)

    @pytest.mark.parametrize("part", ["ir", "receipt", "schedule", "versions", "notation"])
    def test_a_part_that_is_missing_is_named(self, part):
        described = record().to_json()
        del described[part]
        with pytest.raises(ValueError, match=f"'{part}' is missing"):
            from_json(described)


class TestPrune:
    def test_other_toolchains_and_slower_records_go(self, path):
        fast, slow = record(1e-3), record(2e-3, options={"engine": "other"})
        old = record(1e-4, versions={**toolchain(), "tvm": "0.1"})
        records.add(path, [old, slow, fast])
        dropped, _ = records.prune(path)
        assert dropped == [old, slow]
        assert records.read(path).records == (fast,)

    def test_a_record_that_is_there_twice_is_dropped_once(self, path):
        records.add(path, [record()])
        path.write_bytes(path.read_bytes() * 2)
        dropped, _ = records.prune(path)
        assert dropped == [record()]
        assert records.read(path).records == (record(),)


class TestFind:
    @pytest.fixture(autouse=True)
    def nothing_named(self, monkeypatch):
        monkeypatch.delenv(records.VARIABLE, raising=False)
        yield
        records.use_records()

    def at(self, **sizes):
        import families

        shape = {"batch": 1, "heads": 2, "n": 300, "d": 16, **sizes}
        return families.Problem(families.OPERATOR, "forward", "float32", shape)

    def test_nothing_is_read_that_nobody_named(self, path, monkeypatch):
        records.add(path, [record()])
        monkeypatch.chdir(path.parent)
        found = records.find(self.at(), H200)
        assert found.record is None
        assert "neither DTN_RECORDS nor use_records" in found.reason

    @pytest.mark.parametrize("how", ["variable", "use_records"])
    def test_the_same_bucket(self, path, monkeypatch, how):
        records.add(path, [record()])
        if how == "variable":
            monkeypatch.setenv(records.VARIABLE, str(path))
        else:
            records.use_records(path)
        found = records.find(self.at(n=301), H200)
        assert (found.record, found.exact) == (record(), True)
        assert found.reason == "tuned at b=1,h=2,n=300,d=16"

    def test_the_nearest_bucket_by_doublings(self, path):
        near, far = record(sizes={"batch": 1, "heads": 2, "n": 4096, "d": 16}), record()
        records.add(path, [far, near])
        records.use_records(path)
        found = records.find(self.at(n=2000), H200)
        assert (found.record, found.exact) == (near, False)
        assert found.reason == "nearest tuned shape: b=1,h=2,n=4096,d=16"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"dtype": "float16"}, "no record of twice forward, float32 on nvidia/h200"),
            ({"target": "nvidia/h100"}, "no record of"),
            ({"ir": "0" * 12}, "no record of"),
            ({"versions": {"dtn": "0", "tvm": "0.1", "tvm_ffi": "0"}}, r"another toolchain \(dtn 0, tvm 0.1"),
            ({"sizes": {"batch": 1, "heads": 2, "n": 300, "d": 32}}, "other feature sizes"),
        ],
    )
    def test_a_record_of_something_else_does_not_serve(self, path, change, said):
        import re

        records.add(path, [record(**change)])
        records.use_records(path)
        found = records.find(self.at(), H200)
        assert found.record is None
        assert re.search(said, found.reason)

    def test_scalars_change_no_schedule(self, path):
        made = record(scalars={"s": 2.0})
        records.add(path, [made])
        records.use_records(path)
        assert records.find(self.at(), H200).record == made

    def test_a_path_is_of_the_folder_it_was_given_in(self, path, tmp_path, monkeypatch):
        records.add(path, [record()])
        monkeypatch.chdir(tmp_path)
        records.use_records(path.name)
        monkeypatch.chdir("/")
        assert records.find(self.at(), H200).record == record()

    def test_a_file_that_is_not_there_is_an_error_at_once(self, path):
        with pytest.raises(records.RecordsError, match="No such file"):
            records.use_records(path)


@pytest.mark.parametrize("part", ["operator", "direction", "dtype"])
@pytest.mark.parametrize("text", ["/elsewhere", "../elsewhere", "", "a b"])
def test_what_files_are_named_of_is_a_name(part, text):
    with pytest.raises(ValueError, match=f"{part} '.*' is not a name"):
        from_json(record(**{part: text}).to_json())


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("versions", {"tvm": 1}, "versions .* are not all text"),
        ("scalars", {"scale": "x"}, "scalars .* are not all numbers"),
    ],
)
def test_parts_hold_what_they_should(part, value, said):
    with pytest.raises(ValueError, match=said):
        from_json(record(**{part: value}).to_json())


def test_lengths_of_one_bucket_are_compared_by_the_element(path):
    short, long = (
        record(seconds, sizes={"batch": 1, "heads": 2, "n": n, "d": 16}) for seconds, n in ((2e-3, 300), (3e-3, 500))
    )
    assert short.bucket == long.bucket
    records.add(path, [short, long])
    assert records.read(path).records == (long,)


def test_a_damaged_line_is_said_once_where_records_are_used(path):
    records.add(path, [record()])
    with path.open("ab") as file:
        file.write(b"{\n")
    records.use_records(path)
    try:
        with pytest.warns(UserWarning, match="line 2 is skipped"):
            records.find(TestFind().at(), H200)
    finally:
        records.use_records()


def test_a_link_to_records_stays_one(path, tmp_path):
    link = tmp_path / "link.jsonl"
    records.add(path, [record()])
    link.symlink_to(path)
    records.add(link, [record(options={"engine": "other"})])
    assert link.is_symlink()
    assert len(records.read(path).records) == 2


def test_text_in_a_record_is_never_run(path, tmp_path):
    schedule = {**record().schedule, "behaviour": "__import__('os').system('touch pwned')"}
    hostile = record(notation="$(touch pwned)", schedule=schedule)
    records.add(path, [hostile])
    assert records.read(path).records == (hostile,)
    assert json.loads(path.read_text())["schedule"] == hostile.schedule
    assert os.listdir(tmp_path) == [path.name]

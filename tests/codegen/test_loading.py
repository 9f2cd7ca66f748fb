"""Generated modules live as long as they are in use, and can be imported by name as long."""

from __future__ import annotations

import gc
import importlib
import linecache
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtn_codegen import loading
from dtn_codegen.target import parsed

TEXT = "def helper(x):\n    return x + {}\n\n\ndef f(x):\n    return helper(x)\n"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(loading, "MAX_RECENT", 2)
    monkeypatch.setattr(loading, "_RECENT", {})


def made(number, filename="<dtn test>"):
    return loading.loaded(TEXT.format(number), "f", filename).f


def test_a_text_is_compiled_once():
    assert made(1) is made(1)


def test_texts_of_one_operator_and_texts_under_two_names_are_apart():
    functions = made(1), made(2), made(1, "<dtn other>")
    assert len({function.__module__ for function in functions}) == 3
    assert [function(1) for function in functions] == [2, 3, 2]


def test_what_is_in_use_is_imported_by_name_however_many_came_after():
    first = made(1)
    for number in range(2, 10):
        made(number)
    assert first.__module__ not in sys.modules
    assert importlib.import_module(first.__module__).f is first
    assert made(1) is first
    assert linecache.getline(first.__code__.co_filename, 6) == "    return helper(x)\n"


def test_what_is_not_in_use_is_gone():
    name, filename = made(1).__module__, made(1).__code__.co_filename
    made(2), made(3)
    gc.collect()
    assert filename not in linecache.cache
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


def test_a_module_that_there_never_was():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("dtn_generated_f_0")


def test_texts_are_read_in_many_threads():
    """CPython 3.11 counts the depth of trees for all threads together, which shows where a collection waits."""
    text = "def f(x):\n" + "".join(f"    y{n} = (x + {n}) * g(x, [{n}])\n" for n in range(40))

    def waits(*_):
        time.sleep(1e-5)

    gc.callbacks.append(waits)
    try:
        with ThreadPoolExecutor(8) as pool:
            trees = list(pool.map(lambda _: parsed(text), range(1600)))
    finally:
        gc.callbacks.remove(waits)
    assert len(trees) == 1600

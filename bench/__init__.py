"""Timings, side by side with what a user would write by hand; never part of the tests.

``causal.py`` says what is measured; ``session.py`` measures it, in turn, in one process per framework (``worker.py``,
``runners/``), after ``oracle.py`` has approved of every output; ``report.py`` and ``compare.py`` read what was written.
"""

"""Ends the run with a table: every fault and the test that caught it."""

from __future__ import annotations

from mutation.faults import CAUGHT


def pytest_terminal_summary(terminalreporter):
    """One line a fault."""
    lines = [
        line
        for report in terminalreporter.stats.get("passed", [])
        for name, line in report.user_properties
        if name == CAUGHT
    ]
    if lines:
        terminalreporter.section("faults and the tests that caught them")
        terminalreporter.write("".join(f"{line}\n" for line in sorted(lines)))

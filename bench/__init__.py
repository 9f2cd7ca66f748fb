"""Timings, side by side with what a user would write by hand; never part of the tests."""

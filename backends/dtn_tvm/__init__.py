"""TVM kernels: targets, schedules, tuning, records, and the kernels that frameworks call."""

from .records import use_records

__all__ = ["use_records"]

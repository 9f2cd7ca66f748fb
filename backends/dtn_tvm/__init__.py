"""TVM kernels: targets, schedules, tuning, records, and the kernels that frameworks call."""

"""Schedules: jobs at times that recur, on every broker, without a leader."""

"""Scheduling: what to try next, and who trains it."""

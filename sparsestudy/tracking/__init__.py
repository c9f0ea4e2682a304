"""Tracking: the ledger, which is the truth, and MLflow, which shows it."""

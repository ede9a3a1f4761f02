"""Runs jobs: from a JobSpec to its files, and what is made of several jobs: sweeps, TensorBoard.

Imports every package but cli.
"""

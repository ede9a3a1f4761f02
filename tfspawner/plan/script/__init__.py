"""Reads a training script, without running it, for what will not work on several replicas.

Imports only the standard library.
"""

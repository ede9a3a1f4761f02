"""Follows a launched job to its end: its state, as agents and the backend report it, its logs and its files.

Imports backends, pages, record, plan, base and what travels; it knows views only as a Protocol.
"""

"""A launched job to its end: its state as agents and the backend tell it, its logs and files as they come home.

Imports backends, pages, record, plan, base and what travels; it knows views only as a Protocol.
"""

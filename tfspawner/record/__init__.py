"""A run's folder on disk: what is written there, how it is read again, and what can be learned from it.

Imports plan, base and what travels.
"""

"""A run's folder on disk: what is written into it, how it is read again, and what follows from it.

Imports plan, base and what travels.
"""

"""The backend for this machine: one process for each replica, and the files by which a later command finds them.

Imports what lies beside it in backends, record, plan, base and what travels.
"""

"""Where replicas run, behind one Protocol: a backend launches a plan, watches the replicas and reaches their agents.

Imports plan, record, base and what travels to the replicas; never who watches or shows a job.
"""

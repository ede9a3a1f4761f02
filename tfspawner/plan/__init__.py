"""What is to be launched, from a JobSpec to the Plan that a backend carries out: no clock, no randomness, no network.

Imports base and what travels to the replicas, and no click.
"""

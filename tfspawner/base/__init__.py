"""What any part of tf-spawner may use: words, names, shapes of foreign values, users' files, retrying, the terminal.

Imports errors and what travels to the replicas.
"""

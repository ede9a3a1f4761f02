"""The command line: each command parses words, calls one function of the packages below, and prints.

May import every other package; none imports it.
"""

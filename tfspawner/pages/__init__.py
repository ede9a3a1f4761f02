"""Pages of HTML: of a run, a sweep, a comparison.

Imports record, plan, base and what travels: a page is made of what is on disk.
"""

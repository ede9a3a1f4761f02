"""What a person sees while a job or a sweep runs: lines, a live table, a notebook's cell.

Imports follow, pages, backends, plan and base.
"""

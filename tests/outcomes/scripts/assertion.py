events = []
assert events, "no event was selected"

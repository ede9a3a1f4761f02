exec(compile("def train(model:\n    pass\n", "helper.py", "exec"))

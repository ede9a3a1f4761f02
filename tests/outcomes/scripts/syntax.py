def train(model:
    pass

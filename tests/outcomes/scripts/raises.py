def train(rate):
    if rate < 0:
        raise ValueError("the learning rate is negative")


train(-1)

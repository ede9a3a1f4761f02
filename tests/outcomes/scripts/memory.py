import resource

resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
events = bytearray(4 << 30)

module tf-spawner/benchmarks/slowlink

go 1.22

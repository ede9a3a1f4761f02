# on: kubernetes, whose replicas have a read-only root
open("/model.keras", "w")

"""The first process of every replica: it starts the script, keeps its log and its files, and ends the gang.

All in here travels to the replicas, as a zip file beside starter.py, which is called agent.py there. It needs Python
3.9 and its standard library only, so that it runs in any image. The local backend starts it as a process, the
Kubernetes backend as the container's command; it is the same there. Replica 0 of the first role coordinates: the others
report their addresses and states to it, and it decides when the gang meets, runs, stops and has ended.
"""

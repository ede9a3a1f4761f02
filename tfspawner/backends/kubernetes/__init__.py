"""The backend for Kubernetes: manifests, the API and its watches, free capacity, diagnosis of pods.

Its api.py alone imports the `kubernetes` client. Imports what lies beside it in backends, plan, base and what travels.
"""

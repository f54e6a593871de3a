"""Endpoints of a Kubernetes cluster: found by its API, and followed as they come and go."""

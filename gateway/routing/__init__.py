"""The choice of a backend: who is alive, and who takes the request best."""

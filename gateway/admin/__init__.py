"""The admin port: metrics, health, state, drain."""

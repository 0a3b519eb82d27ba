"""What we say: metrics and logs, derived from events and records, never called from decisions."""

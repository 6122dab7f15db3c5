"""The load that a service takes, open loop: python -m benchmarks serving [RESULT.json]."""

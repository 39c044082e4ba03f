"""What training costs, measured: ``python -m benchmarks.<name>`` from the root; results in docs/performance.md."""

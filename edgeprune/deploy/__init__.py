"""The deploy stage on the host: export, simplify, compile, parity, gates, bundle, report."""

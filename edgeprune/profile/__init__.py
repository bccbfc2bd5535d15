"""What a network costs: MACs (fvcore) here; device tables come with latency budgets."""

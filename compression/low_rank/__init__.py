"""Low-rank approximation of linear layers."""

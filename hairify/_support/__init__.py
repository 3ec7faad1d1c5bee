"""What every room may use: copies of networks, random state, files, nested values. It knows nothing of HAIR."""

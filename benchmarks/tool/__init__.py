"""What the tool adds to the network: its loop of training, its loading, its tiles and its start."""

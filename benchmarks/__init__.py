"""What a converted network costs beside the same network unconverted: `make bench`."""

"""Photographs: reading and writing them, degrading them, and the data sets they come in."""

"""What conversion gains: converted and unconverted networks trained alike, compared on held-out photographs."""

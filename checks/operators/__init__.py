"""What operators copy, tried."""

"""The continuous backup by Litestream, tried."""

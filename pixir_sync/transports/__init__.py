"""How a call reaches the server: the strategy interface, and the strategies."""

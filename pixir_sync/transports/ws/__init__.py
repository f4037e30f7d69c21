"""The WebSocket side: connections that stay open, and one attempt over one of them."""

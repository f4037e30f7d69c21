"""The HTTP side: one attempt over HTTP/SSE, and the plain requests of the API."""

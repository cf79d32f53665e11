"""What a workspace knows how to do: one module a domain, written with the public domain API."""

"""The built-in domains: one module each, written with the public domain API."""

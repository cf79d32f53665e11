"""What a workspace knows how to do: one module a domain, written with the public domain API."""

from .notes import Note as Note, notes as notes

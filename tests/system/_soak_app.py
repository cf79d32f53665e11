"""What the soak serves: notes, and agents that coordinate."""

from dalsegno.actors.domains.coordination import (
    caliber_socket,
    coordination_domains,
    coordination_routes,
)
from dalsegno.actors.domains.notes import note_dialect, note_domains, note_routes
from dalsegno.protocol import App

app = App(
    [*note_domains, *coordination_domains],
    routes=[*note_routes, *coordination_routes],
    dialects=[note_dialect, caliber_socket],
)

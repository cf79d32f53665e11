"""Automation: what notes have done by programs and models, proposed, reviewed and applied."""

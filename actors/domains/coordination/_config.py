"""The configuration of a workspace: a JSON object, some of whose fields are settings of ours.

All others are kept and shown as they are.  A setting holds for what begins after it: a delegation
keeps the time that it was given, and an agent has the new one from its next heartbeat on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dalsegno.protocol import Audit, Context, Domain, Reject, Touched

from ._offspring import Named
from ._words import Document

CONFIG_ID = "main"
"""The id of the one configuration of a workspace."""
CONFIG_BYTES_MAX = 64 * 1024
"""A configuration as JSON."""

_DAY_S = 24 * 3600.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a configuration may have, each in seconds, from 0.1 on."""

    agent_offline_after_s: float = 90.0
    """How long after its last heartbeat an agent is offline; at most a day."""
    delegation_timeout_s: float = 3600.0
    """How long a delegation may stay as it is; at most 30 days."""
    handoff_timeout_s: float = 1800.0
    """How long a hand-over may stay as it is; at most 30 days."""


_MOST_S = {
    "agent_offline_after_s": _DAY_S,
    "delegation_timeout_s": 30 * _DAY_S,
    "handoff_timeout_s": 30 * _DAY_S,
}
_LEAST_S = 0.1


class AgentConfig(msgspec.Struct, frozen=True):
    """The configuration of a workspace."""

    config: Document


class UpdateAgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Change a configuration: fields by their names; one that is null goes (RFC 7396)."""

    config: Document
    agent_config_id: str = CONFIG_ID
    base_version: int | None = None


class AgentConfigUpdated(msgspec.Struct, frozen=True):
    """The configuration is this now."""

    config: Document


agent_configs = Domain(
    "agent_config",
    state=AgentConfig,
    commands=UpdateAgentConfig,
    events=AgentConfigUpdated,
    allow={"owner", "admin"},
)


def its_config() -> Named:
    """Return the configuration, for ``touches=``."""
    return [(agent_configs, CONFIG_ID)]


def settings(touched: Touched) -> Settings:
    """Return the settings of the workspace."""
    return settings_in(touched.get(agent_configs, CONFIG_ID))


def settings_in(state: AgentConfig | None) -> Settings:
    """Return the settings that a configuration makes."""
    given = {} if state is None else {k: v for k, v in state.config.items() if k in _MOST_S}
    return Settings(**given)


def whole_config(state: AgentConfig | None) -> dict[str, Any]:
    """Return a configuration with the settings that it does not mention."""
    stored = {} if state is None else state.config
    return {**msgspec.to_builtins(settings_in(state)), **stored}


def merged(state: AgentConfig | None, change: Document) -> Document:
    """Return a configuration after a change."""
    before = {} if state is None else state.config
    return {name: value for name, value in {**before, **change}.items() if value is not None}


def faults_of(config: Document) -> list[str]:
    """Return what is wrong with a configuration, in words; nothing if it is valid."""
    faults = []
    for name, most_s in _MOST_S.items():
        value = config.get(name, _LEAST_S)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            faults.append(f"{name} is a number of seconds")
        elif not _LEAST_S <= value <= most_s:
            faults.append(f"{name} is from {_LEAST_S} to {most_s:.0f} seconds")
    if len(msgspec.json.encode(config)) > CONFIG_BYTES_MAX:
        faults.append(f"a configuration has at most {CONFIG_BYTES_MAX} bytes")
    return faults


@agent_configs.decide
def _update(
    state: AgentConfig | None, command: UpdateAgentConfig, context: Context
) -> AgentConfigUpdated | None:
    if context.entity_id != CONFIG_ID:
        raise Reject("INVALID_INPUT", f"the one configuration is {CONFIG_ID}", status=400)
    config = merged(state, command.config)
    if faults := faults_of(config):
        raise Reject("VALIDATION_FAILED", "; ".join(faults), status=400, errors=faults)
    is_same = state is not None and config == state.config
    return None if is_same else AgentConfigUpdated(config)


@agent_configs.evolve
def _updated(_: AgentConfig | None, event: AgentConfigUpdated) -> AgentConfig:
    return AgentConfig(event.config)


@agent_configs.audit
def _audit(
    _event: AgentConfigUpdated, before: AgentConfig | None, after: AgentConfig | None
) -> Audit:
    changed = sorted(_differing(before, after))
    return Audit(action="AGENT_CONFIG_UPDATED", new_value={"fields": changed})


def _differing(before: AgentConfig | None, after: AgentConfig | None) -> set[str]:
    one = {} if before is None else before.config
    other = {} if after is None else after.config
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}

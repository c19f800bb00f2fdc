"""What Prefect's server does by itself: calls a webhook when a run ends, and gives up a run that shows no life."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.automations import Automation
    from prefect.events import EventTrigger

HEARTBEAT_SECONDS = 30
STALE_SECONDS = 4 * HEARTBEAT_SECONDS
BLOCK = "colinear-webhook"
FAILED, FINISHED, STALE = "colinear: a run failed", "colinear: a report is finished", "colinear: no heartbeat"
FLOWS = ("study", "sweep", "compare")
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")
MESSAGE = """{
 "text": {{ (flow.name ~ ": " ~ flow_run.name ~ " is " ~ flow_run.state.name) | tojson }},
 "flow": {{ flow.name | tojson }},
 "run": {{ flow_run.name | tojson }},
 "state": {{ flow_run.state.name | tojson }},
 "message": {{ (flow_run.state.message or "") | tojson }},
 "page": {{ flow_run | ui_url | tojson }}
}"""
"""A template that Prefect's server renders; ``text`` is what chat services show."""


def register(webhook: str | None) -> list[str]:
    """Make the automations on the server of ``PREFECT_API_URL``, or bring them up to date; returns their names.

    Without ``webhook`` those that call one are left as they are: an earlier call may have made them.
    """
    made = [_keep(_stale())]
    if webhook is None:
        return made
    from prefect.automations import Automation
    from prefect.blocks.webhook import Webhook
    from prefect.events.actions import CallWebhook
    from prefect.types import SecretDict

    Webhook.register_type_and_schema()
    block: Any = Webhook(url=webhook, headers=SecretDict({"Content-Type": "application/json"})).save(
        BLOCK, overwrite=True
    )
    call = CallWebhook(block_document_id=block, payload=MESSAGE)
    for name, states in ((FAILED, ("Failed", "Crashed")), (FINISHED, ("Completed",))):
        what = f"Calls {BLOCK} when a run of {', '.join(FLOWS)} is {' or '.join(states)}."
        made.append(_keep(Automation(name=name, description=what, trigger=_ends_as(*states), actions=[call])))
    return made


def _ends_as(*states: str) -> EventTrigger:
    from prefect.events import EventTrigger

    return EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in states},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)},
        for_each={"prefect.resource.id"},
        posture="Reactive",
    )


def _stale() -> Automation:
    """A machine that is gone reports nothing, its runs would be Running for ever."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events import EventTrigger
    from prefect.events.actions import ChangeFlowRunState

    beat = "prefect.flow-run.heartbeat"
    trigger = EventTrigger(
        after={beat},
        expect={beat, *(f"prefect.flow-run.{state}" for state in ENDED)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture="Proactive",
        within=timedelta(seconds=STALE_SECONDS),
    )
    gone = f"No heartbeat for {STALE_SECONDS} s: its process or its machine is gone. Run it again: it goes on."
    action = ChangeFlowRunState(state=StateType.CRASHED, message=gone)
    return Automation(name=STALE, description=gone, trigger=trigger, actions=[action])


def _keep(automation: Automation) -> str:
    """Create it, or replace the one of its name; whether it is switched off is kept."""
    from prefect.automations import Automation

    with suppress(ValueError):  # there is none of this name
        known: Any = Automation.read(name=automation.name)
        automation.id, automation.enabled = known.id, known.enabled
    if automation.id is None:
        automation.create()
    else:
        automation.update()
    return automation.name

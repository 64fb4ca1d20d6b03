# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Differences that are Synapse's own doing and depend on when it is asked, proven case by case.

Rotation: every 30 seconds Synapse sums push actions into event_push_summary. Until then a user without
a receipt has no count for what came before the own join; the sum does not know that line, so the
notification of the invitation itself reappears in the count once it was rotated. Two right answers
hence differ by exactly the number of rotated notifications from before the join, and by no other
number; whoever has sent a receipt in the room is not concerned.
"""

from __future__ import annotations

import re

from support.world import World

from oracle.differ import Difference

_COUNT = re.compile(r"^rooms\.join\.(.+)\.unread_notifications\.notification_count$")

_ROTATED_BEFORE_JOIN = """
SELECT count(*)
  FROM local_current_membership m
  JOIN events e ON e.event_id = m.event_id
  JOIN event_push_actions a ON a.user_id = m.user_id AND a.room_id = m.room_id
 WHERE m.user_id = '{user}' AND m.room_id = '{room}'
   AND a.notif = 1 AND a.stream_ordering < e.stream_ordering
   AND a.stream_ordering <= (SELECT stream_ordering FROM event_push_summary_stream_ordering)
   AND NOT EXISTS (SELECT 1 FROM receipts_linearized r WHERE r.user_id = m.user_id AND r.room_id = m.room_id)
"""

# Whether one took part in a thread is remembered for each thread and user; the redaction of one's reply is to end that,
# but names the thread alone, which fits no entry (1.157 storage/databases/main/events.py, _handle_redact_relations).
_PARTICIPATED = re.compile(r"^rooms\.\w+\.(.+)\.timeline\.events\[\d+\]\..*m\.thread\.current_user_participated$")

_REDACTED_REPLIES = """
SELECT count(*)
  FROM redactions d
  JOIN events e ON e.event_id = d.redacts
  JOIN event_json j ON j.event_id = e.event_id
 WHERE e.sender = '{user}' AND e.room_id = '{room}'
   AND j.json::json -> 'content' -> 'm.relates_to' ->> 'rel_type' = 'm.thread'
"""


def _remembered_thread(world: World, user_id: str, difference: Difference) -> bool:
    """Tell whether Synapse remembers that the user took part in a thread by a reply that was redacted since."""
    found = _PARTICIPATED.match(difference.path)
    if not found or difference.reference is not True or difference.subject is not False:
        return False
    query = _REDACTED_REPLIES.format(user=_quote(user_id), room=_quote(found.group(1)))
    return int(world.deployment.postgres.psql(query)) > 0


def _of_an_older_release(world: World, difference: Difference) -> bool:
    """Tell whether an older Synapse shows what newer ones and Chappe do not.

    Before 1.152 the event that stands in for a thread's newest one, when that is by an ignored user, has the
    reader's membership.
    """
    path = ".unsigned.m.relations.m.thread.latest_event.unsigned.membership"
    return not world.synapse_from("1.152") and difference.path.endswith(path) and isinstance(difference.reference, str)


def explained(world: World, user_id: str, difference: Difference) -> bool:
    """Tell whether a difference is exactly what one of the above explains for this user."""
    if _of_an_older_release(world, difference) or _remembered_thread(world, user_id, difference):
        return True
    found = _COUNT.match(difference.path)
    if not found or not isinstance(difference.reference, int) or not isinstance(difference.subject, int):
        return False
    query = _ROTATED_BEFORE_JOIN.format(user=_quote(user_id), room=_quote(found.group(1)))
    expected = int(world.deployment.postgres.psql(query))
    return expected > 0 and difference.reference - difference.subject == expected


def _quote(text: str) -> str:
    return text.replace("'", "''")

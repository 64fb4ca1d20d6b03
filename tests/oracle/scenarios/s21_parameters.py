# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Every form of every query parameter, encoded and broken in many ways; filters of every wrong shape."""

from __future__ import annotations

import json
from urllib.parse import quote

from oracle.context import Context

QUIET = "&set_presence=offline"

# As they stand in the query, without encoding.
TIMEOUTS = (
    "abc -1 -0 +0 %2B0 ++0 %2B%2B0 0x10 1e3 1.0 1_0 1__0 _1 1_ - %2B %00 0%00 %200 0%20 %0A0%0A %0B0 %0C0 %0D0"
    " %A00 %1C0"
    " %D9%A3 %FF 00 000000000000000000000000000000 -99999999999999999999999 9%39 %zz 0%"
).split()
FULL_STATES = "true false True TRUE 1 0 yes tru%65 %20true true%20 true%00 null %FF %C3%A9".split()
PRESENCES = "offline unavailable busy ONLINE Offline offline%20 %20offline offline%00 %FF null on".split()
ORDERS = {
    "the first of two counts": "timeout=0&timeout=abc",
    "the first of two counts, wrong": "timeout=abc&timeout=0",
    "an empty one is the first": "timeout=&timeout=0",
    "two full_state": "full_state=false&full_state=maybe",
    "two set_presence": "set_presence=unavailable&set_presence=nonsense",
    "a name without a value": "full_state&timeout",
    "a name in encoded letters": "%66ull_state=maybe",
    "names are case-sensitive": "Timeout=abc&FULL_STATE=maybe",
    "empty pieces": "&&&timeout=0&&",
    "an equals sign in the value": "full_state==true",
    "no name": "=5&timeout=0",
    "a semicolon separates nothing": "timeout=0;full_state=maybe&full_state=true;",
    "timeout before full_state": "full_state=x&timeout=x",
    "timeout before since": "since=%FF&timeout=x",
    "since before set_presence": "set_presence=x&since=%FF",
    "set_presence before filter": "filter=%FF&set_presence=x",
    "filter's letters before full_state": "full_state=x&filter=%FF",
    "full_state before the filter": "filter=%7Bbad&full_state=x",
    "the filter before the token": "since=garbage&filter=%7Bbad",
    "a stored filter before the token": "since=garbage&filter=999999",
    "from before all others": "from=&timeout=x&since=%FF&filter=%7Bbad",
    "from with a good since": "since=s0&from=s0",
    "from in encoded letters": "fr%6Fm=1",
}

# Inline filters, with what JSON may look like.
WRONG = (
    '{bad  {  {}}  {}x  {"a":}  {"a":NaN}  {"a":Infinity}  {"a":-Infinity}  {"a":01}  {"a":1.}  {"a":.5}'
    '  {"a":+1}  {\'a\':1}'
    '  {"a":1,}  {"a":"\\x"}  {"a":"\\u12"}  {"a":tru}  {"a" 1}  {,}  {"room":5}  {"room":null}  {"room":[]}'
    '  {"room":"x"}'
    '  {"room":true}  {"presence":[]}  {"presence":null}  {"account_data":"x"}  {"account_data":5}'
    '  {"event_format":"x"}'
    '  {"event_format":5}  {"event_format":null}  {"event_format":"Client"}  {"event_fields":"x"}'
    '  {"event_fields":[5]}'
    '  {"event_fields":{}}  {"event_fields":null}  {"event_fields":[null]}'
).split("  ")
ROOM_PART = (
    '"rooms":"x"  "rooms":[5]  "rooms":["!x"]  "rooms":["x:y"]  "rooms":["@a:b"]  "rooms":[null]  "rooms":null'
    '  "rooms":{}'
    '  "not_rooms":"x"  "not_rooms":[5]  "not_rooms":["x"]  "not_rooms":["*"]  "include_leave":1'
    '  "include_leave":"true"'
    '  "include_leave":null  "timeline":5  "timeline":[]  "state":"x"  "state":null  "ephemeral":[]  "account_data":1'
).split("  ")
SECTION_PART = (
    '"limit":"5"  "limit":null  "limit":true  "limit":[]  "types":"x"  "types":[5]  "types":[null]'
    '  "types":null  "types":{}'
    '  "not_types":"x"  "not_types":[true]  "senders":"x"  "senders":["x"]  "senders":["@x"]'
    '  "senders":["!a:b"]  "senders":[5]'
    '  "senders":["*"]  "not_senders":"x"  "not_senders":["bob"]  "not_senders":["*"]  "senders":["@:b"]'
    '  "senders":["@a:"]'
    '  "senders":["@a:b:c"]  "senders":["@a:b:80"]  "senders":["@a:[::1]"]  "senders":["@a:[::1"]'
    '  "senders":["@A B:b"]'
    '  "senders":["@a:b_c"]  "senders":["@a:é.example"]  "org.matrix.msc3874.rel_types":"x"'
    '  "org.matrix.msc3874.not_rel_types":[5]'
).split("  ")
ROOM_SECTION_PART = (
    '"rooms":["x"]  "rooms":5  "not_rooms":["x"]  "not_rooms":[["!a:b"]]  "contains_url":1  "contains_url":"true"'
    '  "contains_url":null  "lazy_load_members":1  "lazy_load_members":"true"  "lazy_load_members":null'
    '  "include_redundant_members":0  "include_redundant_members":[]  "unread_thread_notifications":1'
    '  "unread_thread_notifications":"x"  "org.matrix.msc3773.unread_thread_notifications":5'
    '  "org.matrix.labels":"x"  "org.matrix.labels":[5]  "org.matrix.not_labels":"x"  "org.matrix.not_labels":[{}]'
    '  "related_by_senders":"x"  "related_by_senders":[5]  "related_by_senders":["x"]  "related_by_rel_types":"x"'
    '  "related_by_rel_types":[5]'
).split("  ")
GOOD = (
    '{}  {"x":1,"y":[{}]}  {"room":{}}  {"room":{"x":5,"timeline":{"x":[]}}}  {"room":5,"room":{}}'
    '  {"event_format":"client"}'
    '  {"event_fields":[]}  {"event_fields":[""]}  {"presence":{}}  {"presence":{"rooms":"x","contains_url":5}}'
    '  {"account_data":{"lazy_load_members":"no"}}  {"room":{"rooms":[]}}  {"room":{"rooms":["!a"]}}  {"a":"\\ud800"}'
    '  {"a":"\\u0000","\\u0000":1}  {"a":1e300,"b":-1e300,"c":99999999999999999999999999}  { "room" : { } }'
    '  {"a":"\t"}'
    '  {"room":{"timeline":{"limit":1e1}}}  {"room":{"timeline":{"limit":1e300}}}  {"room":{"timeline":{"limit":-0}}}'
    '  {"room":{"timeline":{"limit":99999999999999999999999}}}  {"room":{"timeline":{"limit":100.5}}}'
).split("  ")
STORED = (
    "abc %20 -1 +1 %2B1 1_0 0 00 1e0 1.0 0x1 %5B%5D %22%22 null true %EF%BC%91"
    " 99999999999999999999999 %00 1%00 %207 %7"
).split()
# What Python reads as a number and PostgreSQL does not, or not as a bigint.
PYTHON_ONLY = {"1_0", "%EF%BC%91", "99999999999999999999999"}


def _filters(context: Context) -> None:
    alice = context.user("alice")
    nest = '{"room":{"%s":{%s}}}'
    wrong = [*WRONG, *('{"room":{%s}}' % part for part in ROOM_PART)]
    for name in ("timeline", "state", "ephemeral", "account_data"):
        wrong += [nest % (name, part) for part in (*SECTION_PART, *ROOM_SECTION_PART)]
    for name in ("presence", "account_data"):
        wrong += ['{"%s":{%s}}' % (name, part) for part in SECTION_PART]
    for text in wrong:
        context.ask_raw(alice, f"filter {text}", f"filter={quote(text)}{QUIET}", error_text=False)
    for text in GOOD:
        reply = context.ask_raw(alice, f"filter {text}", f"filter={quote(text)}{QUIET}", error_text=False)
        assert reply.status in (200, 400), (text, reply.raw)
    for text in STORED:
        if text in PYTHON_ONLY and not context.world.synapse_from("1.157"):
            continue  # 500 there: PostgreSQL gets the text as it is
        context.ask_raw(alice, f"stored filter {text}", f"filter={text}{QUIET}")


def _owned_filters(context: Context) -> None:
    """A stored filter belongs to one user, and its number means another one for the next."""
    alice, bob = context.user("alice"), context.user("bob")
    ids = [alice.do.filter({"room": {"timeline": {"limit": limit}}}) for limit in (1, 2, 3)]
    for number in ids:
        context.ask_raw(alice, "one's own", f"filter={number}{QUIET}")
        reply = context.ask_raw(bob, "another's", f"filter={number}{QUIET}")
        assert reply.status == 400, reply.raw
    context.ask_raw(alice, "with zeros before", f"filter=00{ids[1]}{QUIET}")


def _letters(context: Context) -> None:
    """The inline filter is ASCII in the query; JSON's own escapes are not concerned."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    bob.do.send(room, {"body": "é"}, "org.example.é")
    bob.do.text(room, "plain")
    context.settle()
    raw = {"room": {"timeline": {"types": ["org.example.é"]}}}
    text = json.dumps(raw, ensure_ascii=False)
    context.ask_raw(alice, "UTF-8, encoded", f"filter={quote(text)}{QUIET}")
    context.ask_raw(alice, "half a letter", f"filter={quote(text.encode()[:-8])}{QUIET}")
    reply = context.ask_raw(alice, "JSON's escapes", f"filter={quote(json.dumps(raw))}{QUIET}")
    assert len(reply.body["rooms"]["join"][room]["timeline"]["events"]) == 1, reply.body


def run(context: Context) -> None:
    alice = context.user("alice")
    alice.ask("initial")
    for text in ("", *TIMEOUTS):
        context.ask_raw(alice, f"timeout={text}", f"timeout={text}{QUIET}")
    for text in ("", *FULL_STATES):
        context.ask_raw(alice, f"full_state={text}", f"full_state={text}{QUIET}")
        context.ask_raw(alice, f"full_state={text} with a token", f"since={alice.since}&full_state={text}{QUIET}")
    for text in ("", *PRESENCES):
        context.ask_raw(alice, f"set_presence={text}", f"set_presence={text}", error_text=False)
    for title, query in ORDERS.items():
        error_text = "set_presence" not in query and "filter" not in query
        context.ask_raw(alice, title, f"{query}{QUIET}", error_text=error_text)
    _filters(context)
    _owned_filters(context)
    _letters(context)

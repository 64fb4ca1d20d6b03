#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Writes data/*.json: inputs of our own making, with the outputs that Synapse gives for them.

Run it with a Python in which the reference release (matrix-synapse 1.157.1) is installed:

    python make_vectors.py

Only inputs and outputs are kept, nothing of the program that made them. The unit tests read these files with our own
JSON reader and compare byte for byte; run this again, and look at the difference, when the reference release changes.

  events.json       rows of events, whether they can be loaded, and how readers see them
  redactions.json   every type whose content survives in part, over the room versions
  filters.json      filter texts, whether they are valid, what they say, and what they let pass
  push_rules.json   m.push_rules of users with and without rules of their own
  versions.json     what each room version changes
"""

import json
import os
from unittest.mock import Mock

from synapse.api.errors import SynapseError
from synapse.api.filtering import FilterCollection, Filtering
from synapse.api.presence import UserPresenceState
from synapse.events import make_event_from_dict
from synapse.push.clientformat import format_push_rules_for_user
from synapse.synapse_rust.events import (
    BundledAggregations,
    EventFormat,
    SerializeEventConfig,
    redact_event,
    serialize_events,
)
from synapse.synapse_rust.push import FilteredPushRules, PushRule, PushRules
from synapse.synapse_rust import room_versions
from synapse.types import RoomID, UserID, create_requester
from synapse.util.json import json_decoder, json_encoder

HERE = os.path.dirname(os.path.abspath(__file__))
NOW = 1_700_000_100_000
STABLE = room_versions.KNOWN_ROOM_VERSIONS
VERSIONS = {name: STABLE[name] for name in STABLE}
for attribute in ("MSC1767v10", "MSC3389v10", "MSC4242v12"):
    extra_version = getattr(room_versions.RoomVersions, attribute)
    VERSIONS[extra_version.identifier] = extra_version


def compact(value):
    return json_encoder.encode(value)


def write(name, cases):
    with open(os.path.join(HERE, "data", name), "w", encoding="ascii") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


# ---- events ----


def pdu(version, **members):
    """A PDU of the right shape for the version; a member given as ... is left out."""
    v = VERSIONS[version]
    d = {
        "type": "m.room.message",
        "sender": "@alice:example.org",
        "room_id": "!room:example.org",
        "content": {"msgtype": "m.text", "body": "hello"},
        "origin_server_ts": 1_700_000_000_000,
        "depth": 12,
        "prev_events": ["$prev1", "$prev2"],
        "auth_events": ["$auth1", "$auth2"],
        "hashes": {"sha256": "aGFzaA"},
        "signatures": {"example.org": {"ed25519:1": "c2lnbmF0dXJl"}},
        "unsigned": {"age_ts": 1_700_000_000_123},
    }
    if v.event_format == 1:
        d["event_id"] = "$explicit:example.org"
        d["prev_events"] = [[i, {"sha256": "x"}] for i in d["prev_events"]]
        d["auth_events"] = [[i, {"sha256": "x"}] for i in d["auth_events"]]
    if v.msc4242_state_dags:
        d["prev_state_events"] = d.pop("auth_events")
    d.update(members)
    if v.msc4291_room_ids_as_hashes and d["type"] == "m.room.create" and d.get("state_key") == "":
        d.pop("room_id")
    return {k: m for k, m in d.items() if m is not ...}


def load(text, version, metadata):
    d = json_decoder.decode(text)
    return make_event_from_dict(d, VERSIONS[version], json_decoder.decode(metadata), None)


def config(**over):
    c = dict(
        as_client_event=True,
        event_format=EventFormat.ClientV2WithoutRoomId,
        requester=None,
        event_field_allowlist=None,
        include_stripped_room_state=False,
        include_admin_metadata=False,
        msc4354_enabled=False,
    )
    c.update(over)
    return SerializeEventConfig(**c)


def render(event, membership=None, because=None, relations=None, **over):
    out = serialize_events(
        [(event, membership)],
        NOW,
        config(**over),
        bundle_aggregations={event.event_id: BundledAggregations(references=relations)} if relations else None,
        redaction_map={because.event_id: because} if because else None,
    )[0]
    try:
        return compact(out)
    except ValueError:  # infinities
        return None


def redacted(event, by):
    copy = redact_event(event)
    copy.internal_metadata.redacted_by = by
    return copy


FIELDS = [
    ["content"],
    ["content.body", "content.nope", "unsigned"],
    ["unsigned.age", "event_id", "type.x"],
    ["", ".", "content."],
    ["content.a\\.b", "content.a\\\\.b", "content.a\\\\\\.b", "content\\xbody"],
    ["content", "content.body", "content.nested.deep"],
    ["content.nested.deep", "content.nested", "content.list.0"],
    ["unsigned", "unsigned.age", "unsigned.membership", "sender"],
]


def event_case(name, version, d, metadata=None, versioned=True, text=None, deep=False):
    """One row, and how it looks to several readers."""
    text = text if text is not None else compact(d)
    metadata = metadata if isinstance(metadata, str) else compact(metadata or {})
    case = {"name": name, "version": version, "format": VERSIONS[version].event_format, "json": text, "metadata": metadata}
    try:
        event = load(text, version, metadata)
    except (SynapseError, ValueError, KeyError, RecursionError):
        case["readable"] = False
        return case
    case.update(readable=True, event_id=event.event_id, room_id=event.room_id, renders=[])
    case["redacts"] = event.redacts if event.type == "m.room.redaction" and isinstance(event.redacts, str) else None
    case["content"] = compact(json.loads(json.dumps(dict(event.content), sort_keys=True)))

    def add(out, **what):
        if out is None:
            case["readable"] = False
        else:
            case["renders"].append({**{k: v for k, v in what.items() if v is not None}, "out": out})

    add(render(event))
    add(render(event, "join"), membership="join")
    if not deep:
        return case
    m = event.internal_metadata
    if metadata != "{}":
        requester = create_requester(event.sender, device_id=getattr(m, "device_id", None))
        add(
            render(event, "join", requester=requester, include_admin_metadata=True),
            membership="join",
            transaction_id=getattr(m, "txn_id", None),
            delay_id=getattr(m, "delay_id", None),
            mark_soft_failed=m.is_soft_failed(),
            mark_spammy=bool(getattr(m, "policy_server_spammy", False)),
        )
    relations = {"chunk": [{"event_id": "$z"}, {"event_id": "$a\u00e9"}]}
    relations_text = compact({"m.reference": relations})
    add(render(event, "leave", relations=relations), membership="leave", relations=relations_text)
    add(render(event, event_format=EventFormat.Raw), federation=True)
    for fields in FIELDS:
        add(render(event, "join", event_field_allowlist=fields), membership="join", fields=fields)
    add(render(event, "join", relations=relations, event_field_allowlist=["type"]), membership="join", fields=["type"], relations=relations_text)
    unsigned = event.unsigned.for_event()
    if "invite_room_state" in unsigned or "knock_room_state" in unsigned:
        add(
            render(event, include_stripped_room_state=True),
            **{k: compact(json.loads(json.dumps(unsigned[k], sort_keys=True))) for k in ("invite_room_state", "knock_room_state") if k in unsigned},
        )
    # what a redaction does
    because = load(compact(pdu(version, type="m.room.redaction", sender="@mod:example.org", redacts=event.event_id,
                               content={"reason": "r", "redacts": event.event_id})), version, "{}")
    if event.type != "m.room.create":
        gone = redacted(event, because.event_id)
        add(render(gone, "join"), membership="join", redacted_by=because.event_id)
        because_text = render(because)
        add(render(gone, "join", because=because), membership="join", redacted_by=because.event_id, redacted_because=because_text)
        add(render(gone, because=because, event_field_allowlist=["type", "unsigned.redacted_because.content", "unsigned.redacted_by"]),
            redacted_by=because.event_id, redacted_because=because_text, fields=["type", "unsigned.redacted_because.content", "unsigned.redacted_by"])
        add(render(gone, event_format=EventFormat.Raw), federation=True, redacted_by=because.event_id)
    if event.is_state() and event.type != "m.room.create":
        event.unsigned["prev_content"] = {"z": [1, {"y": 1, "x": 2.5}], "a": "\u00e9\""}
        event.unsigned["prev_sender"] = "@b\"ob:example.org"
        prev = dict(prev_content='{"a":"\\u00e9\\"","z":[1,{"x":2.5,"y":1}]}', prev_sender="@b\"ob:example.org")
        add(render(event, "invite"), membership="invite", **prev)
        requester = create_requester(event.sender, device_id=getattr(m, "device_id", None))
        if getattr(m, "txn_id", None):
            add(render(event, "invite", requester=requester), membership="invite", transaction_id=m.txn_id, delay_id=getattr(m, "delay_id", None), **prev)
        gone = redacted(event, because.event_id)
        gone.unsigned["prev_content"] = {}
        gone.unsigned["prev_sender"] = "@c:d"
        add(render(gone, "ban"), membership="ban", redacted_by=because.event_id, prev_content="{}", prev_sender="@c:d")
    return case


RICH = {
    "body": "\u00e9\u20ac\U0001f600\u2028\x7f\x00\x01\b\f\n\r\t\"\\/",
    "big": 123456789012345678901234567890,
    "floats": [1.0, 1.5, 0.1, -0.0, 1e5, 1e15, 1e16, 1e22, 1e-5, 1e-7, 5e-324, 123456789.123456789],
    "a.b": 1,
    "a\\": {"b": 2},
    "a\\.b": 3,
    "a": {"b": 4},
    "": {"": 5},
    "nested": {"deep": {"z": 1, "a": [{"y": 1, "x": None}]}, "other": True},
    "list": [1, [2, {}], [], {}],
    "\u00e9": 1,
    "\uffff": 2,
    "\U0001f600": 3,
}


def events():
    for version in VERSIONS:
        yield event_case("plain", version, pdu(version))
        yield event_case("create", version, pdu(version, type="m.room.create", state_key="", content={"creator": "@alice:example.org", "m.federate": True}))
        yield event_case("redaction on top", version, pdu(version, type="m.room.redaction", redacts="$t", content={"reason": "x"}))
        yield event_case("redaction in content", version, pdu(version, type="m.room.redaction", content={"redacts": "$c", "reason": "x"}))
        yield event_case("redaction in both", version, pdu(version, type="m.room.redaction", redacts="$t", content={"redacts": "$c"}))
        yield event_case("redaction of null", version, pdu(version, type="m.room.redaction", redacts=None, content={"redacts": None}))
        yield event_case("redaction of a number", version, pdu(version, type="m.room.redaction", redacts=5, content={"redacts": 6}))
    local = {"txn_id": "m1700.1", "device_id": "DEVICE", "token_id": 7, "delay_id": "d\u00e9lay\"", "soft_failed": True, "policy_server_spammy": True}
    for version in ("1", "10", "11", "12"):
        yield event_case("rich", version, pdu(version, content=RICH), local, deep=True)
        yield event_case("member", version, pdu(version, type="m.room.member", state_key="@alice:example.org", content={"membership": "join", "displayname": "A"},
                         unsigned={"age_ts": 5, "replaces_state": "$old", "junk": 1, "age": 7, "redacted_because": {}, "transaction_id": "t", "m.relations": {}}), {"txn_id": "t", "device_id": "D"}, deep=True)
        yield event_case("old keys", version, pdu(version, prev_state=[], origin="example.org", membership="join", zzz=[1], age=4, age_ts=5, replaces_state="x", user_id="@q:b", redacts="$q"), deep=True)
        yield event_case("no unsigned", version, pdu(version, unsigned=...), deep=True)
        yield event_case("create", version, pdu(version, type="m.room.create", state_key="", content={"room_version": version}), deep=True)
        yield event_case("redaction", version, pdu(version, type="m.room.redaction", redacts="$t", content={"redacts": "$t", "reason": "\u00e9"}), deep=True)
    invite = [{"type": "m.room.name", "state_key": "", "content": {"name": "\u00e9"}, "sender": "@x:y"}, {"z": 1, "a": 2}]
    yield event_case("invite", "10", pdu("10", type="m.room.member", state_key="@bob:example.org", content={"membership": "invite"}, unsigned={"age_ts": 1, "invite_room_state": invite}), deep=True)
    yield event_case("knock", "10", pdu("10", type="m.room.member", state_key="@bob:example.org", content={"membership": "knock"}, unsigned={"knock_room_state": invite, "invite_room_state": []}), deep=True)
    for unsigned in (
        {"age_ts": 1.5}, {"age_ts": 10**30}, {"age_ts": -5}, {"age_ts": None}, {"age_ts": "x"}, {"age_ts": True}, {"age_ts": 2**63 - 1}, {"age_ts": -(2**63)}, {"age_ts": 2**63},
        {"age_ts": 1.5, "replaces_state": "$r", "prev_content": {"b": 1, "a": 2}, "prev_sender": "@q:b"}, {"prev_content": "x"}, {"prev_content": None, "prev_sender": None}, {"prev_sender": 4},
        {"replaces_state": 5}, {"replaces_state": None}, {"invite_room_state": "x"}, {"invite_room_state": [1]}, {"knock_room_state": {}}, {"prev_sender": "@only:b"},
        None, 1, [], "x", {},
    ):
        yield event_case("unsigned " + compact(unsigned), "10", pdu("10", unsigned=unsigned), deep=unsigned == {"age_ts": 1.5, "replaces_state": "$r", "prev_content": {"b": 1, "a": 2}, "prev_sender": "@q:b"} or unsigned == {"prev_sender": "@only:b"})
    for version in ("1", "10", "12", "org.matrix.msc4242.12"):
        ids = ("room_id", "auth_events", "prev_state_events", "event_id")
        others = ("type", "sender", "content", "origin_server_ts", "depth", "prev_events", "hashes", "signatures", "state_key")
        for member in ids + others if version in ("1", "10") else ids:
            for value in (..., None, 1, "x", [], {}, True, [1], ["x"], [["x", {}]], [["x", 1]], [["x", {}, 1]], {"a": 1}, {"a": "b"}, {"a": {"b": "c"}}, 2**63):
                c = event_case("odd %s %s" % (member, "gone" if value is ... else compact(value)), version, pdu(version, **{member: value}))
                c.get("renders", [])[1:] = []
                yield c
        yield event_case("create with room id", version, {**pdu(version), "type": "m.room.create", "state_key": ""})
        yield event_case("create without state key", version, {**pdu(version), "type": "m.room.create"})
        yield event_case("create with another state key", version, {**pdu(version), "type": "m.room.create", "state_key": "x"})
    plain = compact(pdu("10"))
    for value in ("1e5", "-0", "1E400", "-1e400", "1.10", "1e0", "100000000000000000000.0", "2.5e-400", "01", "+1", ".5", "1.", "NaN", "Infinity", "1" * 4300, "1" * 4301,
                  "\"\\ud800\"", "\"\\udc00x\"", "\"\\ud83d\\ude00\"", "\"\\ud83dx\"", "\"\\/\\u0041\"", "{\"a\":1,\"a\":2}", "{\"\\ud800\":1}",
                  "[" * 125 + "]" * 125, "[" * 126 + "]" * 126, "[" * 300 + "]" * 300):
        yield event_case("value " + value[:20], "10", None, text=plain.replace('"hello"', value))
    for text in ("", "{", "[]", "1", "null", "\"x\"", plain + "x", " " + plain + "\n", plain[:-1], plain.replace("hello", "\n"), plain.replace("hello", "\u00e9")):
        yield event_case("text", "10", None, text=text)
    for metadata in ("", "[]", "null", "{", '{"soft_failed":1,"txn_id":5,"device_id":null,"token_id":true,"zzz":1}', '{"txn_id":"","device_id":""}', '{"soft_failed":"yes"}'):
        case = event_case("metadata " + metadata, "10", pdu("10"), metadata if metadata.startswith("{") and metadata != "{" else "{}")
        case["metadata"] = metadata
        if metadata in ("", "[]", "null", "{"):  # no JSON object at all: the reference fails before the event is made
            case = {k: case[k] for k in ("name", "version", "format", "json", "metadata")}
            case["readable"] = False
        yield case


# ---- redactions ----


def redactions():
    contents = [
        ("m.room.member", {"membership": 5, "join_authorised_via_users_server": "x", "third_party_invite": {"signed": [1], "a": 1}, "z": 1}),
        ("m.room.member", {"membership": "join", "third_party_invite": "x"}),
        ("m.room.member", {"third_party_invite": {"a": 1}}),
        ("m.room.create", {"creator": "a", "room_version": "x", "m.federate": 1}),
        ("m.room.join_rules", {"join_rule": "x", "allow": [], "z": 1}),
        ("m.room.power_levels", {k: 1 for k in ("users", "users_default", "events", "events_default", "state_default", "ban", "kick", "redact", "invite", "notifications")}),
        ("m.room.aliases", {"aliases": [], "z": 1}),
        ("m.room.history_visibility", {"history_visibility": "joined", "z": 1}),
        ("m.room.redaction", {"redacts": "x", "reason": "r"}),
        ("m.room.message", {"body": "x", "m.relates_to": {"rel_type": "a", "event_id": "b", "key": "c"}}),
        ("m.room.message", {"m.relates_to": {"x": 1}}),
        ("m.room.encrypted", {}),
    ]
    for version in ("1", "3", "5", "6", "8", "9", "10", "11", "12", "org.matrix.msc3389.10", "org.matrix.msc4242.12"):
        for type, content in contents:
            over = dict(type=type, content=content, prev_state=[], origin="o", membership="join", redacts="$t", zzz=1,
                        unsigned={"age_ts": 1, "replaces_state": "$r", "prev_content": {}, "prev_sender": "@a:b", "invite_room_state": []})
            if type != "m.room.redaction" and type != "m.room.message":
                over["state_key"] = ""
            if type != "m.room.message":
                over["hashes"] = {}
                over["signatures"] = {}
            text = compact(pdu(version, **over))
            event = load(text, version, "{}")
            gone = redact_event(event)
            yield {"version": version, "json": text, "event_id": event.event_id, "room_id": event.room_id,
                   "content": compact(json.loads(json.dumps(dict(gone.content), sort_keys=True))),
                   "out": render(gone, event_format=EventFormat.Raw)}


# ---- filters ----


def homeserver(**experimental):
    hs = Mock()
    hs.config.experimental.msc3773_enabled = experimental.get("msc3773", False)
    hs.config.experimental.msc3874_enabled = experimental.get("msc3874", False)
    return hs


def items():
    """(name, the item as the reference has it, the item as we have it, kind)"""
    def event(**members):
        e = load(compact(pdu("10", **members)), "10", "{}")
        return e

    yield "message", event()
    yield "url", event(content={"url": "mxc://x"}, sender="@bob:example.org")
    yield "url is a number", event(content={"url": 5}, type="m.sticker")
    yield "labels list", event(content={"org.matrix.labels": ["#fun", "work", 5]})
    yield "labels string", event(content={"org.matrix.labels": "a #fun b"})
    yield "labels object", event(content={"org.matrix.labels": {"#fun": 1}})
    yield "relation", event(content={"m.relates_to": {"rel_type": "m.thread", "event_id": "$x"}}, room_id="!other:example.org")
    yield "half a relation", event(content={"m.relates_to": {"rel_type": "m.thread"}})
    yield "no sender", event(sender="", content={"user_id": "@bob:example.org"})
    yield "state", event(type="m.room.member", state_key="@bob:example.org", content={"membership": "join"})
    yield "account data", {"type": "m.tag", "content": {"tags": {}}}
    yield "account data of a user", {"type": "m.direct", "content": {"user_id": "@bob:example.org", "url": "x"}}
    yield "account data that is no object", {"type": "m.odd", "content": []}
    yield "typing", {"type": "m.typing", "room_id": "!room:example.org", "content": {"user_ids": ["@a:b"]}}
    yield "receipt", {"type": "m.receipt", "room_id": "!other:example.org", "content": {}}


def item_json(item):
    if isinstance(item, dict):
        content = item["content"] if isinstance(item["content"], dict) else {}
        out = {"type": item.get("type"), "room_id": item.get("room_id"), "content_user_id": content.get("user_id"),
               "contains_url": isinstance(content.get("url"), str)}
        return {k: v for k, v in out.items() if v is not None}
    return {"event": compact(item.get_dict()), "room_id": item.room_id, "event_id": item.event_id}


SECTIONS = {
    "presence": "_presence_filter",
    "account_data": "_global_account_data_filter",
    "room": "_room_filter",
    "timeline": "_room_timeline_filter",
    "state": "_room_state_filter",
    "ephemeral": "_room_ephemeral_filter",
    "room_account_data": "_room_account_data_filter",
}


def filter_texts():
    # A limit of 1e400 is left out: the reference takes it for infinity and fails later, we refuse it at once.
    for key in ("types", "not_types", "senders", "not_senders", "rooms", "not_rooms", "org.matrix.labels", "org.matrix.not_labels",
                "org.matrix.msc3874.rel_types", "org.matrix.msc3874.not_rel_types", "contains_url", "related_by_senders", "related_by_rel_types",
                "limit", "lazy_load_members", "include_redundant_members", "unread_thread_notifications", "org.matrix.msc3773.unread_thread_notifications"):
        for value in ([], ["m.room.message"], ["m.room.*"], ["*"], ["m.*.x", ""], ["m.presence"], ["@bob:example.org"], ["@alice:example.org", "@bob:example.org"],
                      ["!room:example.org"], ["!" + "A" * 43], ["#fun"], ["m.thread"], True, False, 5, 2.5, -3, 10**30, "x", None, {}, [5], [None]):
            if value == [None] and "rel_types" in key:
                continue  # unvalidated in rooms, where null means "no relation" by accident
            yield compact({"room": {"timeline": {key: value}}})
            yield compact({"presence": {key: value}})
    for key in ("rooms", "not_rooms", "include_leave", "timeline", "state", "ephemeral", "account_data", "other"):
        for value in ([], ["!room:example.org"], ["!other:example.org", "!x:y"], ["@a:b"], ["*"], True, 5, {}, None, "x"):
            yield compact({"room": {key: value}})
    for key in ("room", "presence", "account_data", "event_format", "event_fields", "other"):
        for value in ({}, [], ["content.body", "a\\.b"], "client", "federation", "x", 5, None, [5]):
            yield compact({key: value})
    yield compact({"room": {"rooms": ["!room:example.org"], "timeline": {"not_rooms": ["!room:example.org"], "types": ["m.*"]}, "state": {"lazy_load_members": True, "include_redundant_members": True}}})
    yield compact({"room": {"timeline": {"limit": 20, "unread_thread_notifications": True, "senders": ["@alice:example.org"], "types": ["m.room.message"], "not_types": ["m.room.message"]},
                            "ephemeral": {"types": ["m.receipt"], "rooms": ["!other:example.org"]}, "account_data": {"not_types": ["m.tag"]}, "include_leave": True},
                   "account_data": {"types": ["m.direct"], "senders": ["@bob:example.org"]}, "presence": {"senders": ["@bob:example.org"], "types": ["m.presence"]}})
    yield compact({"account_data": {"org.matrix.labels": ["x"], "rooms": [5], "contains_url": True}})
    for text in ("{", "", "[]", "5", "{}", " {} ", "{\"a\":NaN}", "{\"room\":{\"timeline\":{\"limit\":1e2}}}", "{\"room\":{\"timeline\":{\"limit\":10.0}}}",
                 "{\"room\":5,\"room\":{}}", "{\"a\":01}", "{}x", "{'a':1}", "{\"event_fields\":[\"\\ud800\"]}"):
        yield text


def filters():
    filtering = Filtering(homeserver())
    all_items = list(items())
    yield {"items": [item_json(i) for _, i in all_items], "names": [n for n, _ in all_items]}
    for msc in ({}, {"msc3773": True, "msc3874": True}):
        for text in filter_texts():
            if msc and "msc3" not in text:
                continue
            case = {"filter": text, **msc}
            try:
                d = json_decoder.decode(text)
            except ValueError:
                yield {**case, "error": "json"}
                continue
            if isinstance(d, dict) and d.get("a") and d["a"] != d["a"]:
                yield {**case, "error": "json"}
                continue
            try:
                filtering.check_valid_filter(d)
            except SynapseError:
                yield {**case, "error": "schema"}
                continue
            fc = FilterCollection(homeserver(**msc), d)
            match = {}
            for section, attribute in SECTIONS.items():
                f = getattr(fc, attribute)
                bits = ""
                for _, item in all_items:
                    try:
                        bits += "1" if f._check(item) else "0"
                    except TypeError:
                        bits += "?"
                if section == "presence":
                    # presence items have a matcher of their own
                    bits = "".join("1" if f._check(UserPresenceState.default(u)) else "0" for u in ("@alice:example.org", "@bob:example.org"))
                match[section] = bits
            limit = fc.timeline_limit()
            yield {
                **case,
                "limit": max(min(int(limit), 2**63 - 1), -(2**63)) if limit == limit and abs(limit) < 1e300 else 2**63 - 1,
                "fractional": isinstance(limit, float),
                "flags": [fc.lazy_load_members(), fc.include_redundant_members(), fc.unread_thread_notifications(), fc.include_leave, fc.event_format == "federation"],
                "event_fields": fc.event_fields,
                "blocks": [fc.blocks_all_rooms(), fc.blocks_all_presence(), fc.blocks_all_global_account_data(), fc.blocks_all_room_ephemeral(),
                           fc.blocks_all_room_account_data(), fc.blocks_all_room_timeline()],
                "related": [bool(f.related_by_senders or f.related_by_rel_types) for f in (fc._room_timeline_filter, fc._room_state_filter)],
                "match": match,
            }
    ids = ["@a:b", "a:b", "@a", "@:b", "@a:", "@a:b:80", "@a:b:", "@a:b:x", "@a:b: 80 ", "@a:b:+8_0", "@a:b:8__0", "@a:[::1]", "@a:[::1]:80", "@a:[::g]", "@a:[]", "@a:1.2.3.4", "@a:b..c",
           "@a:.b", "@a:b.", "@a:b_c", "@a:b.c\n", "@\u00e9:b", "@a:\u00e9", "@a:[::1", "@a:::1]", "@a:[::ffff:1.2.3.4]", "", "@", "@a:b:-1", "@a:b:c:80", "@a:b:_80", "@a:b:80_", "@a:b\u0000", "@a:-", "@a:b:\t7\n"]
    yield {"user_ids": [[i, UserID.is_valid(i)] for i in ids]}
    rooms = [i.replace("@", "!") for i in ids] + ["!" + "A" * n for n in (42, 43, 44)] + ["!" + "a-_9" * 10 + "xyz", "!" + "A" * 42 + "+", "!" + "A" * 43 + "\n", "!" + "A" * 42 + "\n", "#" + "A" * 43]
    yield {"room_ids": [[i, RoomID.is_valid(i)] for i in rooms]}


# ---- push rules ----


def push_rules():
    names = ("msc4210_enabled", "msc1767_enabled", "msc3664_enabled", "msc3381_polls_enabled", "msc4028_push_encrypted_events", "msc4306_enabled")

    def case(rows=(), enables=None, user="@alice:example.org", features=()):
        ordered = sorted(rows, key=lambda r: (-r[1], -r[2]))
        rules = PushRules([PushRule.from_db(rule_id=r[0], priority_class=r[1], conditions=r[3], actions=r[4]) for r in ordered])
        out = format_push_rules_for_user(UserID.from_string(user), FilteredPushRules(rules, dict(enables or {}), **{name: name in features for name in names}))
        return {"user": user, "rows": [list(r) for r in rows], "enables": [[k, v] for k, v in (enables or {}).items()], "features": list(features), "out": json_encoder.encode(out)}

    yield case()
    for name in names:
        yield case(features=[name])
    yield case(features=names)
    yield case(user="@we\"ird\u00e9:example.org:8448")
    room = '[{"kind":"event_match","key":"room_id","pattern":"!r:x"}]'
    sender = '[{"kind":"event_match","key":"user_id","pattern":"@b:x"}]'
    body = '[{"kind":"event_match","key":"content.body","pattern":"zz*"}]'
    of_features = [
        ("global/override/mine", 5, 9, '[{"kind":"device"}]', '["notify"]'),
        ("global/override/.org.matrix.msc4028.encrypted_event", 5, 3, "[]", '["dont_notify"]'),
        ("global/postcontent/.io.element.msc4306.rule.subscribed_thread", 6, 3, "[]", "[]"),
        ("global/underride/.org.matrix.msc3930.rule.poll_end", 1, 3, "[]", '["notify","coalesce"]'),
        ("global/underride/mine", 1, 3, "[]", "[]"),
    ]
    off = {"global/override/.im.nheko.msc3664.reply": False, "global/underride/.org.matrix.msc1767.rule.extensible.file": False}
    yield case(of_features, off)
    yield case(of_features, off, features=names)
    yield case([
        ("global/override/low", 5, 0, "[]", '["dont_notify"]'),
        ("global/override/high", 5, 9, '[{"kind":"device"}]', '["notify"]'),
        ("global/room/!r:x", 3, 0, room, "[]"),
        ("global/sender/@b:x", 2, 0, sender, '["notify","coalesce"]'),
        ("global/content/word", 4, 1, body, '["notify",{"set_tweak":"sound","value":"default"}]'),
        ("global/content/other", 4, 2, body, '["notify"]'),
        ("global/underride/u", 1, 0, "[]", '["notify"]'),
        ("global/postcontent/p", 6, 0, "[]", '["notify"]'),
        ("global/override/.m.rule.master", 5, 3, '[{"kind":"device"}]', '["notify"]'),
        ("global/override/.m.rule.bogus", 5, 4, "[]", "[]"),
        ("global/content/.m.rule.contains_user_name", 4, 3, "[]", '[{"set_tweak":"x"}]'),
        ("global/underride/.m.rule.message", 1, 7, "[]", "[]"),
    ], {"global/override/.m.rule.master": True, "global/override/.m.rule.tombstone": False, "global/override/high": False, "global/nothing": True, "global/content/word": False})
    conditions = (
        '{"pattern":"b","key":"a","kind":"event_match"}', '{"kind":"event_match","key":"a","pattern":"b","extra":1,"_cache_key":"x"}', '{"kind":"event_match","key":"a","pattern_type":"user_id"}',
        '{"kind":"event_match","key":"a"}', '{"kind":"event_match","pattern":"x"}', '{"kind":"event_match","key":1,"pattern":"b"}', '{"kind":"device","x":1}', '{"a":1,"kind":"unknown_k","z":{"b":1,"a":2.50}}',
        '{"a":1}', '{}', '{"kind":"room_member_count","is":">2"}', '{"kind":"room_member_count"}', '{"kind":"room_member_count","is":null}', '{"kind":"room_member_count","is":2}',
        '{"kind":"sender_notification_permission","key":"room","z":1}', '{"kind":"sender_notification_permission"}', '{"kind":"contains_display_name","q":1}', '{"kind":"event_property_is","key":"a","value":1}',
        '{"kind":"event_property_is","key":"a","value":null}', '{"kind":"event_property_is","key":"a","value":1.5}', '{"kind":"event_property_is","key":"a","value":[1]}', '{"kind":"event_property_is","key":"a"}',
        '{"kind":"event_property_is","key":"a","value":9223372036854775807}', '{"kind":"event_property_is","key":"a","value":9223372036854775808}', '{"kind":"event_property_is","key":"a","value":-0}',
        '{"kind":"event_property_contains","key":"a","value":"x"}', '{"kind":"event_property_contains","key":"a","value_type":"user_id"}', '{"kind":"event_property_contains","key":"a","value_type":"user_localpart","value":"x"}',
        '{"kind":"im.nheko.msc3664.related_event_match","key":"a","pattern":"b","rel_type":"z","include_fallbacks":true}', '{"kind":"im.nheko.msc3664.related_event_match"}',
        '{"kind":"im.nheko.msc3664.related_event_match","rel_type":"z","include_fallbacks":null,"key":null}', '{"kind":"im.nheko.msc3664.related_event_match","rel_type":"z","include_fallbacks":1}',
        '{"kind":"org.matrix.msc3931.room_version_supports","feature":"x","a":1}', '{"kind":"io.element.msc4306.thread_subscription","subscribed":true,"a":1}', '{"kind":"io.element.msc4306.thread_subscription","subscribed":1}',
        '{"kind":"event_match","key":"\\u00e9","pattern":"\\ud83d\\ude00"}', '{"z":1,"kind":"foo","pattern_type":"user_id","a":1}', '{"z":1,"kind":"foo","pattern_type":"user_localpart","pattern":7,"value_type":"user_id","zz":2}',
        '{"kind":"zz","b":"x","value":"v","value_type":"bogus","pattern":5,"pattern_type":7}', '{"kind":"event_match","key":"a","pattern":null}',
    )
    yield case([("global/override/c%d" % i, 5, -i, "[%s]" % c, "[]") for i, c in enumerate(conditions)])
    actions = ('{"value":"x","set_tweak":"sound"}', '{"set_tweak":"highlight"}', '{"set_tweak":"highlight","value":null}', '{"set_tweak":"highlight","value":{"b":1,"a":2}}',
               '{"set_tweak":"highlight","value":5,"extra":1,"aaa":2}', '{"foo":1}', '{"z":1,"a":2}', '{"set_tweak":5,"a":1}', '5', 'null', '[]', '"notify"', '"dont_notify"', '"coalesce"', '{"set_tweak":"s","value":1.50}')
    yield case([("global/override/a%d" % i, 5, -i, "[]", "[%s]" % a) for i, a in enumerate(actions)])
    kinds = ('{"kind":"event_match","key":"a","pattern_type":"user_localpart"}', '{"kind":"event_match","key":"a","pattern_type":"bogus"}', '{"kind":"device"}', '{"kind":"unk","pattern":5}',
             '{"kind":"event_property_is","key":"a","value":"x"}', '{"kind":"event_property_is","key":"a","value":"x","pattern":"y"}', '{"kind":"event_match","key":"a","pattern":"p"},{"kind":"device"}',
             '{"kind":"im.nheko.msc3664.related_event_match","rel_type":"z","pattern":"y"}', '')
    yield case([("global/content/k%d" % i, 4, -i, "[%s]" % c, '["notify"]') for i, c in enumerate(kinds)])
    yield case([("nosep", 5, 5, "[]", "[]"), ("a/b/", 5, 4, "[]", "[]"), ("global/override/a/b", 5, 3, "[]", "[]"), ("global/room/x", 3, 0, '[{"kind":"unk","pattern":5}]', "[]")])


def versions():
    for name, v in VERSIONS.items():
        yield {"name": name, "format": v.event_format, "aliases": v.special_case_aliases_auth, "v11": v.updated_redaction_rules, "restricted": v.restricted_join_rule,
               "restricted_fix": v.restricted_join_rule_fix, "hashes": v.msc4291_room_ids_as_hashes, "relations": v.msc3389_relation_redactions, "dags": v.msc4242_state_dags}


if __name__ == "__main__":
    write("versions.json", versions())
    write("events.json", events())
    write("redactions.json", redactions())
    write("filters.json", filters())
    write("push_rules.json", push_rules())

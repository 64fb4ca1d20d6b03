# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Requests that are wrong: status, errcode and headers must be the same."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice = context.user("alice")
    alice.ask("initial")
    assert alice.since is not None
    for title, query in (
        ("bad timeout", {"timeout": "abc"}),
        ("negative timeout", {"timeout": "-1"}),
        ("empty timeout", {"timeout": ""}),
        ("bad full_state", {"full_state": "1"}),
        ("upper-case full_state", {"full_state": "TRUE"}),
        ("bad presence", {"set_presence": "sleeping"}),
        ("from instead of since", {"from": alice.since}),
        ("empty since", {"since": ""}),
        ("garbage since", {"since": "garbage"}),
        ("too many parts", {"since": alice.since + "_1"}),
        ("not a number inside", {"since": alice.since.replace("_", "_x", 1)}),
        ("unknown writer", {"since": "m5~99.7" + alice.since[alice.since.index("_") :]}),
    ):
        context.ask_error(alice, title, **query)
    good = alice.do.token
    for title, token in (("unknown token", "nonsense"), ("empty token", ""), ("Synapse-like token", "syt_YQ_abc_0123")):
        alice.do.token = token
        context.ask_error(alice, title)
    alice.do.token = None
    context.ask_error(alice, "no token")
    alice.do.token = good
    alice.do.logout()
    context.ask_error(alice, "logged out")

# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The one exception whose text is meant for the person at the terminal."""


class StackError(Exception):
    """A step failed; the message says which, why, and what to do about it."""

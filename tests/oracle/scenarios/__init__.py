# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Scenarios of the oracle: one module each, with `run(context)`; the first doc line is its title."""

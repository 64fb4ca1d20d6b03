# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""End-to-end tests: a real Synapse, PostgreSQL, Redis and nginx, and real clients."""

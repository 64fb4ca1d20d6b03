# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The oracle: the same question to a Synapse worker and to Chappe, and the first difference."""

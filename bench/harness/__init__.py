# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Measures /sync of Chappe and of a Synapse worker side by side; started by bench/run."""

# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The push worker against gateways of the tests' own, on the real stack."""

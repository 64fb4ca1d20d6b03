# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A whole Matrix deployment on one machine, for `deploy/local/up` and for the tests.

Only the standard library is used. `Deployment` (deployment.py) is the entry for other code: give it
a `Settings`, call `start()`, use the addresses in `settings.ports`, call `stop()`. Each server has a
small module of its own that writes its configuration and says when it is ready.
"""

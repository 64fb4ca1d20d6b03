# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Entry of `python3 -m stack`, which is what deploy/local/up runs."""

import sys

from stack.cli import main

sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What the end-to-end tests and the oracle share: real servers and devices on them.

Importing this package makes `stack` (deploy/local/stack) importable.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "deploy" / "local"))

"""``python -m captum_unioncam`` is the command ``unioncam``."""

import sys

from captum_unioncam.cli import main

sys.exit(main())

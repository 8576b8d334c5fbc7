"""``python -m captum_unioncam`` is the command ``unioncam``."""

import sys

from captum_unioncam.commands.main import main

sys.exit(main())

"""The web app as a Space: whoever comes has the demo's network, and can name no other."""

from captum_unioncam.app.choices import Settings
from captum_unioncam.app.main import page

page(Settings(("demo",), is_closed=True))

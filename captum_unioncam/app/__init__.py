"""The local web app of ``unioncam app``: pictures, maps, regions and the code that repeats them."""

"""For developers, in a checkout: how fast and how near the package is to others and to itself.

- ``python -m benchmarks.speed --out DIR``: methods, other libraries and plain forwards in turn.
- ``python -m benchmarks.gpu``: exact UnionCAM on a GPU in every arithmetic and layout.
- ``python -m benchmarks.ablation``: Ablation-CAM against grad-cam's.
- ``unioncam benchmark --model benchmarks.networks:mobilenet_v2``: further networks of the tables.
- ``python -m benchmarks.surrogate DIR 64 128 auto``: maps of fewer masks against exact ones.
"""

"""The only package that opens images: bytes to facts, in a guarded process.

`guard` is what a worker imports: it needs neither Pillow nor NumPy, which the guarded process alone loads.
"""

"""The only package that opens images: from bytes to facts, in a sandboxed process.

A worker imports `decoder`, which needs neither Pillow nor NumPy: only the decode process loads them.
"""

"""Readers of mesh files that come from anywhere: what they cannot read they reject by name.

Every reader looks at the header first and judges the sizes that it claims against the size of the
file, so that nothing large is allocated on the word of a file. No reader opens a second file
itself: `beside.py` alone decides what may be opened, and only inside the folder (or the archive)
of the asset. Images are never opened.

The formats are read here and not by trimesh, because the geometry is the small part of what it
does with a file: it decodes images, opens what the file names, takes relative indices of OBJ
files to count from the end of the file, and knows neither skins nor sparse accessors. It stays
the reference of the tests.

`reasons.py` names every reason for a reject, and every flag.
"""

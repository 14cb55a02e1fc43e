"""The run page: one offline HTML file with curves, pictures and orbitable meshes."""

"""Conditioning views: pictures of every prepared sample, packed beside its grids."""

"""One file per command of `threed-gen`: read the arguments, call the room, show the result."""

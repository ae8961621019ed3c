"""The same calls in other libraries: one module per peer, with a function per operator."""

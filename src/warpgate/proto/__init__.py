"""Wire formats: codecs over bytes, and state machines that never touch a socket, a clock or randomness."""

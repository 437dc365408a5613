"""From the adapter to an answer: merged weights, GGUF files, a server on this machine, and the proof that they are the adapter."""

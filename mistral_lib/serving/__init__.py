"""A model behind an address on this machine, and the client that asks it.

serve           chooses form and engine, waits until the model answers, says how to reach it, ends cleanly
llama_cpp       llama.cpp's server on a GGUF file
vllm_command    vLLM's exact command
vllm_key_guard  asks for the key at the paths that vLLM leaves open
server_process  a server in a process of its own: started, watched, stopped
access_key      the key, in a file that nobody but its owner can read
endpoint        ids, log-likelihoods and greedy answers from an address
json_requests   JSON over HTTP, with errors that say what to do
"""

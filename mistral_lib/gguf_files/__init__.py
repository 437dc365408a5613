"""Models and adapters as GGUF files for llama.cpp and Ollama, with the check that nothing of them was lost.

gguf_conversion    from safetensors, by llama.cpp's own converters
gguf_tokenizer     the trained tokenizer in the file, with equal ids
gguf_quantization  Q8_0 and Q4_K_M
gguf_file          header and tensors of a file
llama_cpp_tokens   token ids as llama.cpp makes them from a file
ollama             a Modelfile with template and stop strings
go_template        renders Modelfile templates, for the comparison with the trained format
"""

// What mmkernels/_cuda.abi3.so uses of libtorch_cuda, to link against where torch is a CPU build. Never loaded.
extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }

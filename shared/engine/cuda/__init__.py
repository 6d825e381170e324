"""The engine on CUDA: paged attention, decode under CUDA graphs, KV through pinned memory.

Written without a GPU at hand: the kernels are proven in Triton's interpreter and compiled for Hopper, the rest runs
device-generic on a CPU. See `docs/adr/0011-engine-on-cuda.md` for what is unverified.
"""

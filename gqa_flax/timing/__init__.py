"""How long a step takes, and what it needs, on chips that are not here.

chips        published figures of TPU generations, and slices by name
geometries   public decoder-only models; parameters by what reads them
kv_cache     bytes of decoding caches, and the batches that fit
roofline     bytes and FLOPs of encoding and decoding, from a config alone
flops        model FLOPs in closed form, from a config alone
hlo          compiled text, and how often each part of it runs
products     its matrix FLOPs
exchanges    its bytes exchanged between chips
cost         what one chip needs: bytes, FLOPs, and estimates of the time
programs     a training step as the compiler is given it: shapes, shardings
decoding     encoder, cache fill and decode steps, also so
tpu_compile  compiles for a slice, and reads the cost off
estimate     the time to decode on a slice, mesh by mesh
measure      the time to decode on the devices that are here
spread       what was measured several times
"""

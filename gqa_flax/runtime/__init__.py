"""The process and the world around it, without JAX.

owner       One owner for a folder: the process that writes there.
interrupts  Ctrl-C as a request that nothing swallows.
quiet       Keeps libraries from talking before a command does.
status      What a command says while it works: phases, progress bars.
"""

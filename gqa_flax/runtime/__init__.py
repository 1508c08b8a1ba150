"""The process and the world around it, without JAX.

owner  a folder has one owner: the process that writes there
"""

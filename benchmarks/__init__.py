"""How fast nnlab is beside what people use today; ``python -m benchmarks`` measures it.

A folder of the repository, not of the installed package; see README.md here.
"""

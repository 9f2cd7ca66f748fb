"""The conformance matrix: every operator, form, mode, check and dtype of every backend, held to one oracle.

``dtn conform`` computes it.  :mod:`.operators` and :mod:`.cells` say what is in it, :mod:`.structure` what has no
meaning, :mod:`.bounds` how far a result may be from the dense interpreter, :mod:`.checks` what is compared.  A
framework is known by one :class:`.adapter.Adapter`, in the package of its backend, and runs in processes of its own
(:mod:`.worker`).
"""

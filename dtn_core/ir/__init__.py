"""The intermediate representation: nodes, functions, order and the verifier."""

"""What an operator is: index notation, IR, passes, cost, catalogue and layers; imports no framework."""

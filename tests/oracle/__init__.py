"""What the tests hold the library to, written without it: definitions, knob combinations, differences."""

"""The compiler's passes, one a file, each Program to Program."""

"""What it takes to run a part of a program in a process of its own: sending it there, and its end with the program."""

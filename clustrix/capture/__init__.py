"""What a function needs to run elsewhere: the distributions around it, or the file that describes them."""

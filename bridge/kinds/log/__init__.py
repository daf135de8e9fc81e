"""The kind `log`: one line a message, in a file that programs append to and something rotates."""

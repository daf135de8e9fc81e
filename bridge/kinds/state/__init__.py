"""The kind `state`: files that each hold a latest value, beside a Redis hash each."""

"""Bodies of requests and replies: what is accepted, and what each field becomes."""

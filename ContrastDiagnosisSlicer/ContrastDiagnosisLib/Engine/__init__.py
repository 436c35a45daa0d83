"""The engine: its process and client, its set-up, its tokens, and files for it."""

"""The vocabulary that every layer shares: messages, sampling, records, events and the `ChatModel` protocol."""

"""OpenAI's Responses: requests, answers whole and streamed, and the store that keeps them."""

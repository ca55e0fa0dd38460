"""OpenAI's dialect: chat completions and Responses of fusions and engines."""

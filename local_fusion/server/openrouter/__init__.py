"""OpenRouter's Fusion over local models: its slug, its plugin and its tool, and results in its shape.

`schema` reads what a request asks for, in chat completions and Responses alike (`wished`); `asking` puts the request to
a panel (`ask`), by way of `making`, the fusion that it describes, or of `tool`, a model that may consult one; `result`
tells how the panel's answers compare.
"""

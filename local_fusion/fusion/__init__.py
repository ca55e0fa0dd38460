"""Fusing: panels, judges and strategies. Sees `ChatModel` only, so whatever answers can be a member or a judge."""
